package client

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client/clienttest"
	"devicetrust/devices/tpm/tpmtest"
)

func hintOf(t *testing.T, err error) string {
	t.Helper()
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok {
		t.Fatalf("%v is no refusal", err)
	}
	return r.Hint
}

// wireError is err as a client receives it.
func wireError(err *connect.Error) error {
	w := connect.NewWireError(err.Code(), errors.New(err.Message()))
	for _, d := range err.Details() {
		w.AddDetail(d)
	}
	return w
}

func TestWhoMayNotRegisterIsToldOfTokens(t *testing.T) {
	denied := api.Refuse(connect.CodePermissionDenied, "no role allows it")
	if got := hintOf(t, mayNotRegister(denied)); !strings.Contains(got, "dtctl devices enroll") || !strings.Contains(got, "--token=TOKEN") {
		t.Errorf("hint %q", got)
	}
	if got := hintOf(t, mayNotRegister(denied.WithHint("do this"))); got != "do this" {
		t.Errorf("a hint of the server's became %q", got)
	}
	other := api.Refuse(connect.CodeAlreadyExists, "it is there")
	if got := hintOf(t, mayNotRegister(other)); got != "" {
		t.Errorf("another refusal got the hint %q", got)
	}
}

func TestAMachineNamedAfterItsTPMIsToldOfSerialsForRootOnly(t *testing.T) {
	const tag = "TPM-0123456789ab"
	refused := api.Refuse(connect.CodeFailedPrecondition, "this is device %q", tag).WithHint("compare the tags")
	wire, _ := api.ToWire(refused)
	for _, tt := range []struct {
		name, hidden string
		err          error
		want         string
	}{
		{"a hint more", "Only root can read it.", refused, "compare the tags. Only root can read it."},
		{"a refusal off the wire", "Only root can read it.", wireError(wire), "compare the tags. Only root can read it."},
		{"the only hint", "Only root can read it.", api.Refuse(connect.CodeNotFound, "not %s", tag), "Only root can read it."},
		{"nothing is hidden", "", refused, "compare the tags"},
		{"it is not about the tag", "Only root can read it.", api.Refuse(connect.CodeNotFound, "no").WithHint("wait"), "wait"},
	} {
		if got := hintOf(t, aboutTag(tt.err, tag, tt.hidden)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	plain := errors.New("out of paper: " + tag)
	if got := aboutTag(plain, tag, "Only root can read it."); !errors.Is(got, plain) {
		t.Errorf("an error that is no refusal became %v", got)
	}
	if got := aboutTag(nil, tag, "Only root can read it."); got != nil {
		t.Errorf("no error became %v", got)
	}
}

// hangs gives the address of a TPM that hears commands and never answers;
// heard is called with each.
func hangs(t *testing.T, heard func()) string {
	return "tcp:" + listen(t, func(conn net.Conn) {
		conn.Read(make([]byte, 64))
		heard()
		<-t.Context().Done()
	})
}

func TestCtrlCEndsWhatWaitsForATPMThatHangs(t *testing.T) {
	for name, ask := range map[string]func(context.Context, *Machine) error{
		"the asset tag": func(ctx context.Context, m *Machine) error {
			_, err := m.AssetTag(ctx)
			return err
		},
		"what the machine reports": func(ctx context.Context, m *Machine) error {
			_, err := m.Collect(ctx)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dmi := t.TempDir()
			if name != "the asset tag" {
				if err := os.WriteFile(filepath.Join(dmi, "product_serial"), []byte("C00AA0AAAA0A"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m := &Machine{DMIDir: dmi, Chip: NewChip(hangs(t, cancel)), Now: time.Now}
			err := ask(ctx, m)
			if _, refused := errors.AsType[*api.Refusal](err); refused || !errors.Is(err, context.Canceled) {
				t.Errorf("error %#v, want that the person gave up", err)
			}
		})
	}
}

func TestNoTokenIsMadeForAnEnrollmentThatCannotBeRemembered(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, nil)
	// A folder where the file should be, for root may write anywhere.
	if err := h.folder("device", "state.json"); err != nil {
		t.Fatal(err)
	}
	m := &Machine{Home: h, DMIDir: t.TempDir(), Chip: NewChip(tpmtest.Start(t).Address), Now: time.Now}
	_, err := m.enroll(t.Context(), p, options(), func(context.Context, *Conn, *dtv1.DeviceData) (string, error) {
		t.Error("a token was made")
		return "", errors.New("no token")
	})
	if got := hintOf(t, err); got == "" {
		t.Errorf("%v has no remedy", err)
	}
}

package machine

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
)

// source makes a Source over files; dmi maps names to contents.
func source(t *testing.T, dmi map[string]string, osRelease string) Source {
	t.Helper()
	dir := t.TempDir()
	for name, text := range dmi {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	release := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(release, []byte(osRelease), 0o600); err != nil {
		t.Fatal(err)
	}
	return Source{DMIDir: dir, OSRelease: release}
}

func ek(context.Context) ([]byte, error) { return []byte("an endorsement key"), nil }

const ekTag = "TPM-ff785b5b91c7"

func TestTheTagIsTheFirstLabelThatNamesTheMachine(t *testing.T) {
	for _, tt := range []struct {
		name string
		dmi  map[string]string
		want string
	}{
		{"the owner's label comes first", map[string]string{"chassis_asset_tag": "IT-4711\n", "product_serial": "C00AA0AAAA0A\n"}, "IT-4711"},
		{"the system's serial number comes next", map[string]string{"chassis_asset_tag": "No Asset Tag\n", "product_serial": "C00AA0AAAA0A  \n", "board_serial": "B1"}, "C00AA0AAAA0A"},
		{"the board's serial number comes last", map[string]string{"product_serial": "Default string", "board_serial": "B1234"}, "B1234"},
		{"placeholders everywhere leave the TPM", map[string]string{"chassis_asset_tag": "None", "product_serial": "To Be Filled By O.E.M.", "board_serial": "0"}, ekTag},
		{"no firmware tables leave the TPM", nil, ekTag},
		{"an endless file is no label", map[string]string{"product_serial": strings.Repeat("A", maxField+1)}, ekTag},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := source(t, tt.dmi, "")
			s.EK = ek
			got, err := s.AssetTag(t.Context())
			if err != nil || got != tt.want {
				t.Errorf("tag %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestTheTPMIsNotAskedWhereTheMachineHasALabel(t *testing.T) {
	s := source(t, map[string]string{"product_serial": "C00AA0AAAA0A"}, "")
	s.EK = func(context.Context) ([]byte, error) {
		t.Error("the TPM was asked")
		return nil, nil
	}
	if _, err := s.AssetTag(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAMachineThatNothingNamesIsToldWhatToDo(t *testing.T) {
	tpm := api.Refuse(connect.CodeFailedPrecondition, "failed to open the TPM").WithHint("join the group tss")
	for _, tt := range []struct {
		name     string
		ek       func(context.Context) ([]byte, error)
		wantHint string
	}{
		{"no TPM", nil, "Set an asset tag in the machine's firmware, or turn on its TPM."},
		{"a TPM with a remedy", func(context.Context) ([]byte, error) { return nil, tpm }, "join the group tss"},
		{"a TPM without one", func(context.Context) ([]byte, error) { return nil, errors.New("burnt") }, "Set an asset tag in the machine's firmware."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := source(t, nil, "")
			s.EK = tt.ek
			_, err := s.AssetTag(t.Context())
			r, ok := errors.AsType[*api.Refusal](err)
			if !ok || !strings.Contains(r.Hint, tt.wantHint) {
				t.Errorf("error %#v, want a hint with %q", err, tt.wantHint)
			}
		})
	}
}

func TestWhatIsReportedIsWhatTheFilesSay(t *testing.T) {
	s := source(t, map[string]string{
		"chassis_asset_tag": "Default string\n", "product_serial": "C00AA0AAAA0A\n", "board_serial": "B\x1b[2J1\n", "product_name": "ThinkPad X1  \n",
	}, "# comment\nID=debian\nVERSION_ID=\"12\"\nBUILD_ID='2026\\a'\nNAME=\"a \\\"b\\\"\"\nnonsense\n")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d, err := s.Collect(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{d.GetOsType(), d.GetAssetTag(), d.GetOsId(), d.GetOsVersion(), d.GetOsBuild(), d.GetModelIdentifier(),
		d.GetSerialNumber(), d.GetReportedAssetTag(), d.GetSystemSerialNumber(), d.GetBaseBoardSerialNumber()}
	want := []string{OSType(), "C00AA0AAAA0A", "debian", "12", `2026\a`, "ThinkPad X1",
		"C00AA0AAAA0A", "Default string", "C00AA0AAAA0A", "B[2J1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !d.GetCollectTime().AsTime().Equal(now) || d.GetHostname() == "" || d.GetKernelVersion() == "" {
		t.Errorf("time %v, host name %q, kernel %q", d.GetCollectTime().AsTime(), d.GetHostname(), d.GetKernelVersion())
	}
	if u, err := user.Current(); err != nil || d.GetOsUsername() != u.Username {
		t.Errorf("account %q, want %v", d.GetOsUsername(), u)
	}
	if got := s.osRelease()["NAME"]; got != `a "b"` {
		t.Errorf("quoted value %q", got)
	}
}

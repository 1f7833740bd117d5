package client

import (
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api"
)

func hintOf(t *testing.T, err error) string {
	t.Helper()
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok {
		t.Fatalf("%v is no refusal", err)
	}
	return r.Hint
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
	refused := api.Refuse(connect.CodeFailedPrecondition, "this is another device").WithHint("compare the tags")
	for _, tt := range []struct {
		name, hidden string
		err          error
		want         string
	}{
		{"a hint more", "Only root can read it.", refused, "compare the tags. Only root can read it."},
		{"the only hint", "Only root can read it.", api.Refuse(connect.CodeNotFound, "no"), "Only root can read it."},
		{"nothing is hidden", "", refused, "compare the tags"},
	} {
		if got := hintOf(t, alsoHint(tt.err, tt.hidden)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	plain := errors.New("out of paper")
	if got := alsoHint(plain, "Only root can read it."); !errors.Is(got, plain) {
		t.Errorf("an error that is no refusal became %v", got)
	}
}

package ca

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/store/storetest"
)

// attested makes r one for a key in the TPM.
func attested(r *UserRequest) {
	r.Identity.PrivateKeyPolicy, r.Identity.KeyAttestation = identity.KeyPolicyHardware, strings.Repeat("ab", 32)
}

func TestACertificateAndItsRecordSayWhereTheKeyIs(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	certs := w.issue(t, func(r *UserRequest) { attested(r); r.Renewal = true })
	id, err := identity.UnverifiedFromSSH(certs.SSH)
	if err != nil || !id.KeyAttested() || id.KeyAttestation != strings.Repeat("ab", 32) {
		t.Errorf("the certificate says %+v, %v", id, err)
	}
	want := &event.Key{Policy: "hardware_key", Attestation: strings.Repeat("ab", 32)}
	e := w.certEvents(t)[0]
	if d := cmp.Diff(want, e.Key); d != "" || e.Action != "renew" {
		t.Errorf("recorded action %q and (-want +got):\n%s", e.Action, d)
	}
	for name, less := range map[string]func(*UserRequest){
		"without a device":     func(r *UserRequest) { r.Identity.Device = identity.Device{} },
		"without its proof":    func(r *UserRequest) { r.Identity.KeyAttestation = "" },
		"with less than proof": func(r *UserRequest) { r.Identity.KeyAttestation = "ab" },
		"as software":          func(r *UserRequest) { r.Identity.PrivateKeyPolicy = identity.KeyPolicyNone },
	} {
		req := w.request(t)
		attested(&req)
		less(&req)
		if _, err := w.ca.IssueUser(t.Context(), req, allow); err == nil {
			t.Errorf("%s: it was issued", name)
		}
	}
}

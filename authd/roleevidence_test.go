package authd

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/login"
	"devicetrust/policy/vectors"
	"devicetrust/resource"
	"devicetrust/store"
)

func TestACertificateCarriesTheEvidenceOfItsDevice(t *testing.T) {
	s := opened(t)
	u := resource.User{Header: resource.NewHeader(resource.KindUser, "alice"), Spec: resource.UserSpec{Roles: []string{"access"}}}
	password := login.NewSecret(goodPassword)
	if err := s.login.CreateUser(t.Context(), "test", u, &password); err != nil {
		t.Fatal(err)
	}
	want := identity.Evidence{Level: "event_log", TPMManufacturer: "IFX", TPMFirmware: "7.85.4555.0"}
	k := newKeys(t)
	out, err := s.issue(t.Context(), issuing{
		user: "alice", loginID: "login", sshKey: k.ssh.PublicKey(), tlsKey: k.der, until: vectors.Now.Add(time.Hour),
		device: identity.Device{ID: "d", AssetTag: "t", CredentialID: "c"}, evidence: want,
	}, func(*store.Tx, time.Time) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(out.certificates.GetSsh())
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.UnverifiedFromSSH(key.(*ssh.Certificate))
	if err != nil || id.Evidence != want {
		t.Errorf("the certificate says %+v, %v, want %+v", id.Evidence, err, want)
	}
}

// What a login on a device would prove is not known before; what the last one
// proved is.
func TestExplainExpectsOfADeviceWhatItLastProved(t *testing.T) {
	r := start(t)
	doc := `{kind: role, version: v7, metadata: {name: measured}, spec: {
		options: {device_evidence: {level: event_log, tpms: [{manufacturer: IFX, min_firmware: "7.85"}]}}, allow: {node_labels: {'*': '*'}}}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "role", Resource: []byte(doc)})); err != nil {
		t.Fatal(err)
	}
	r.addUser("alice", "access", "measured")
	r.join("web")
	l := r.newLaptop("TAG12345")
	l.enroll(r.login("alice"))
	for _, row := range []struct{ evidence, reason, change string }{
		{`null`, `requires a device with evidence "event_log", and this one gave none`,
			`log in from an enrolled device with evidence "event_log" and a TPM of IFX (firmware 7.85 or later)`},
		{`{"level":"quote","tpm_manufacturer":"IFX","tpm_firmware":"7.86"}`, `requires a device with evidence "event_log", and this one gave "quote"`,
			`log in from an enrolled device with evidence "event_log" and a TPM of IFX (firmware 7.85 or later)`},
		{`{"level":"secure_boot","tpm_manufacturer":"IFX","tpm_firmware":"7.8"}`, `and this one's is of "IFX" with firmware "7.8"`,
			`log in from an enrolled device with evidence "event_log" and a TPM of IFX (firmware 7.85 or later)`},
		{`{"level":"event_log","tpm_manufacturer":"IFX","tpm_firmware":"7.86"}`, "", ""},
	} {
		r.execute(`UPDATE devices SET document = json_set(document, '$.spec.evidence', json('` + row.evidence + `'))`)
		res, err := r.adminService().Explain(t.Context(), connect.NewRequest(&dtv1.ExplainRequest{
			User: "alice", Login: "root", Node: "web", Device: "TAG12345",
		}))
		if err != nil {
			t.Fatal(err)
		}
		if m := res.Msg; m.GetAllowed() != (row.reason == "") || !strings.Contains(m.GetReason(), row.reason) {
			t.Errorf("%s: allowed %t: %s", row.evidence, m.GetAllowed(), m.GetReason())
		}
		if row.change != "" && !slices.Equal(res.Msg.GetChanges(), []string{row.change}) {
			t.Errorf("%s: changes %q, want %q", row.evidence, res.Msg.GetChanges(), row.change)
		}
	}
}

// Where a login's key will be is not known before; where there is a TPM it is
// there, unless somebody wants it otherwise.
func TestExplainExpectsTheKeyOfALoginInTheTPMOfItsDevice(t *testing.T) {
	r := start(t)
	doc := `{kind: role, version: v7, metadata: {name: attested}, spec: {options: {require_attested_key: true}, allow: {node_labels: {'*': '*'}}}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "role", Resource: []byte(doc)})); err != nil {
		t.Fatal(err)
	}
	r.addUser("alice", "access", "attested")
	r.join("web")
	l := r.newLaptop("TAG12345")
	l.enroll(r.login("alice"))
	const change = "log in without --key=software from an enrolled device with a TPM"
	for _, row := range []struct {
		attestation, device, reason string
		notes                       []string
	}{
		{"tpm_ekpub", "TAG12345", "", []string{"a key in the TPM of a trusted device is demanded, and it is there", "where it is not with --key=software"}},
		{"tpm_ekcert", "TAG12345", "", nil},
		{"tpm_ekcert_trusted", "TAG12345", "", nil},
		// Such a device gets no extensions for a login with the role.
		{"macos_key", "TAG12345", "access to resource requires a trusted device", []string{`it does not count: role "attested" requires a key in the device's TPM`}},
		{"of a later version", "TAG12345", "access to resource requires a trusted device", []string{"it does not count"}},
		{"tpm_ekpub", "", "access to resource requires a trusted device", nil},
	} {
		r.execute(`UPDATE devices SET document = json_set(document, '$.spec.credential.device_attestation_type', '` + row.attestation + `')`)
		res, err := r.adminService().Explain(t.Context(), connect.NewRequest(&dtv1.ExplainRequest{
			User: "alice", Login: "root", Node: "web", Device: row.device,
		}))
		if err != nil {
			t.Fatal(err)
		}
		m := res.Msg
		if m.GetAllowed() != (row.reason == "") || row.reason != "" && m.GetReason() != row.reason {
			t.Errorf("%+v: allowed %t: %s", row, m.GetAllowed(), m.GetReason())
		}
		if !m.GetAllowed() && !slices.Equal(m.GetChanges(), []string{change}) {
			t.Errorf("%+v: changes %q", row, m.GetChanges())
		}
		for _, want := range row.notes {
			if !slices.ContainsFunc(m.GetRules(), func(r *dtv1.ExplainRule) bool { return strings.Contains(r.GetDetail(), want) }) {
				t.Errorf("%+v: nothing says %q in %v", row, want, m.GetRules())
			}
		}
	}
}

func TestExplainSaysWhyADeviceDoesNotCount(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	r.addUser("bob", "access")
	r.join("web")
	l := r.newLaptop("TAG12345")
	l.enroll(r.login("alice"))
	about := func(user string) string {
		res, err := r.adminService().Explain(t.Context(), connect.NewRequest(&dtv1.ExplainRequest{
			User: user, Login: "root", Node: "web", Device: "TAG12345",
		}))
		if err != nil {
			t.Fatal(err)
		}
		if rule := res.Msg.GetRules()[0]; strings.HasPrefix(rule.GetSource(), "device") {
			return rule.GetDetail()
		}
		return ""
	}
	if said := about("alice"); said != "" {
		t.Errorf("of her own device alice is told: %s", said)
	}
	if said := about("bob"); !strings.Contains(said, "enrolled by another user") {
		t.Errorf("of alice's device bob is told: %s", said)
	}
	l.change(func(d *resource.Device) { d.Spec.EnrollStatus = resource.NotEnrolled })
	if said := about("alice"); !strings.Contains(said, "not enrolled") {
		t.Errorf("of one that is not enrolled: %s", said)
	}
}

package authd

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/devices"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
)

// chipKey is a login's key in l's TPM, which signs for one caller at a time.
type chipKey struct {
	l   *laptop
	key tpm.LoginKey
}

var _ crypto.Signer = chipKey{}

func (k chipKey) Public() crypto.PublicKey {
	key, err := k.key.PublicKey()
	if err != nil {
		k.l.r.t.Error(err)
	}
	return key
}

func (k chipKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	chip := k.l.open()
	defer chip.Close()
	return chip.Sign(k.l.r.t.Context(), k.key, digest)
}

// attested are certificates for keys in a TPM.
type attested struct {
	*keys
	kept    *tpm.LoginKeys
	success *dtv1.AuthenticateSuccess
}

// connected is a client of k's that has shown its certificate already: the TPM
// cannot sign for TLS while a ceremony has it.
func (r *running) connected(k *keys) *http.Client {
	c := r.https(k)
	_, _ = dtv1connect.NewAdminServiceClient(c, r.url()).Status(r.t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
	return c
}

// prove is a device authentication with keys in the TPM: new ones, or what
// change asks for.
func (l *laptop) prove(k *keys, change ...func(*tpm.AuthArgs)) (attested, error) {
	l.r.t.Helper()
	c := l.r.connected(k)
	return l.proveOver(k, dtv1connect.NewDeviceServiceClient(c, l.r.url()).AuthenticateDevice(l.r.t.Context()), change...)
}

func (l *laptop) proveOver(k *keys, stream tpm.AuthenticateStream, change ...func(*tpm.AuthArgs)) (attested, error) {
	l.r.t.Helper()
	args := tpm.AuthArgs{StatePath: l.state, Data: l.data, NewKeys: true, Binding: identity.LoginBinding{
		Cluster: "test", User: k.user(l.r.t), SSHPublicKey: k.sshCert.Key.Marshal(), TLSPublicKey: k.der,
	}}
	for _, f := range change {
		f(&args)
	}
	chip := l.open()
	defer chip.Close()
	proved, err := chip.Authenticate(l.r.t.Context(), args, stream)
	if err != nil {
		return attested{}, err
	}
	next := *k
	certs := proved.Success.GetCertificates()
	next.take(l.r.t, certs.GetSsh(), certs.GetTls())
	if proved.Keys != nil {
		next.certificate = &tls.Certificate{Certificate: [][]byte{certs.GetTls()}, PrivateKey: chipKey{l, proved.Keys.TLS}}
	}
	return attested{&next, proved.Keys, proved.Success}, nil
}

// mustProve is prove that must succeed.
func (l *laptop) mustProve(k *keys, change ...func(*tpm.AuthArgs)) attested {
	l.r.t.Helper()
	got, err := l.prove(k, change...)
	if err != nil {
		l.r.t.Fatal(err)
	}
	return got
}

func software(args *tpm.AuthArgs) { args.NewKeys = false }
func renewal(args *tpm.AuthArgs)  { args.Renew = true }

// again certifies the same keys.
func (a attested) again(args *tpm.AuthArgs) { args.Keys = a.kept }

// mayCallWith tells whether k's certificate is good for a call.
func (r *running) mayCallWith(k *keys) error {
	_, err := dtv1connect.NewAdminServiceClient(r.https(k), r.url()).Status(r.t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
	return err
}

// recorded are the acts of a type, the oldest first.
func (r *running) recorded(typ event.Type) (events []event.Event) {
	r.t.Helper()
	res, err := r.adminService().ListAudit(r.t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(typ)}))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, record := range res.Msg.GetEvents() {
		var e event.Event
		if err := json.Unmarshal(record, &e); err != nil {
			r.t.Fatal(err)
		}
		events = append(events, e)
	}
	slices.SortStableFunc(events, func(a, b event.Event) int { return a.Time.Compare(b.Time) })
	return events
}

func TestALoginHasCertificatesForKeysInTheTPM(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	a := l.mustProve(k)

	sshKey, err := a.kept.SSH.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	wire, err := ssh.NewPublicKey(sshKey)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.sshCert.Key.Marshal(), wire.Marshal()) {
		t.Error("the SSH certificate is for another key")
	}
	id, err := identity.UnverifiedFromSSH(a.sshCert)
	if err != nil || !id.KeyAttested() || id.Device.AssetTag != "TAG12345" {
		t.Errorf("it says %+v, %v", id, err)
	}
	leaf, err := x509.ParseCertificate(a.certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(chipKey{l, a.kept.TLS}.Public())
	if err != nil || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, der) {
		t.Errorf("the X.509 certificate is for another key, %v", err)
	}
	if got := column(t, r.database(), `SELECT lower(hex(ssh_key) || ' ' || hex(tls_key)) FROM logins`); !slices.Equal(got, []string{
		hex.EncodeToString(wire.Marshal()) + " " + hex.EncodeToString(der),
	}) {
		t.Errorf("the login's keys are %s", got)
	}
	issued := r.recorded(event.CertCreate)
	want := &event.Key{Policy: "hardware_key", Attestation: id.KeyAttestation}
	if len(issued) != 2 || issued[0].Key == nil || issued[0].Key.Policy != "none" || issued[1].Key == nil || issued[1].Key.Attestation != want.Attestation || issued[1].Key.Policy != want.Policy {
		t.Errorf("recorded as %+v", issued)
	}

	if err := r.mayCallWith(a.keys); err != nil {
		t.Errorf("a call by the key in the TPM: %v", err)
	}
	// Logged in with the key in the TPM, the same keys are proved once more.
	again := l.mustProve(a.keys, a.again)
	if !bytes.Equal(again.sshCert.Key.Marshal(), a.sshCert.Key.Marshal()) || again.sshCert.Serial == a.sshCert.Serial {
		t.Error("the keys are others, or the certificate is the same")
	}
	if next, err := identity.UnverifiedFromSSH(again.sshCert); err != nil || !next.KeyAttested() || next.KeyAttestation == id.KeyAttestation {
		t.Errorf("the proof is the one from before: %+v, %v", next, err)
	}
	if err := r.mayCallWith(again.keys); err != nil {
		t.Error(err)
	}
}

// Whoever has a copy of the keys that a login had before is let in as without a
// device, until that certificate ends, and is given nothing.
func TestKeysThatWereReplacedAreGivenNoDevice(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	a := l.mustProve(k)
	if err := r.mayCallWith(k); err != nil {
		t.Errorf("the certificate without a device: %v", err)
	}
	kept := column(t, r.database(), `SELECT hex(ssh_key) || hex(tls_key) || expires_at FROM logins`)
	for name, change := range map[string][]func(*tpm.AuthArgs){
		"the key itself":        {software},
		"others in the TPM":     nil,
		"the login's":           {a.again},
		"the login's, for long": {a.again, renewal},
	} {
		if got, err := l.prove(k, change...); err == nil {
			t.Errorf("%s: certificate %d was issued", name, got.sshCert.Serial)
		} else {
			wantRefused(t, err, connect.CodeUnauthenticated)
		}
	}
	if got := column(t, r.database(), `SELECT hex(ssh_key) || hex(tls_key) || expires_at FROM logins`); !slices.Equal(got, kept) {
		t.Error("the login was changed")
	}
	const said = "this login has other keys since its device was authenticated"
	if got := r.failed(event.DeviceAuthenticate); !slices.Equal(got, []string{said, said, said, said}) {
		t.Errorf("recorded as failed: %q", got)
	}
	if got := column(t, r.database(), `SELECT DISTINCT hex(key_digest) FROM certificates WHERE device_id <> ''`); len(got) != 2 {
		t.Errorf("keys with a device: %s", got)
	}
}

// What the trigger does is what another ceremony of the login does.
func TestNoKeysTakeThePlaceOfThoseOfACeremonyMeanwhile(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	for _, column := range []string{"ssh_key", "tls_key"} {
		for _, keys := range []func(*tpm.AuthArgs){software, func(*tpm.AuthArgs) {}} {
			r.execute(`CREATE TRIGGER meanwhile AFTER INSERT ON audit_log WHEN NEW.event = 'device.authenticate' AND NEW.success BEGIN UPDATE logins SET ` + column + ` = x'00'; END`)
			_, err := l.prove(k, keys)
			wantRefused(t, err, connect.CodeAborted)
			r.execute(`DROP TRIGGER meanwhile`)
			k = r.login("alice")
		}
	}
	if got := column(t, r.database(), `SELECT serial FROM certificates WHERE device_id <> ''`); len(got) > 0 {
		t.Errorf("issued: %s", got)
	}
}

const strictRole = `{kind: role, version: v7, metadata: {name: strict}, spec: {options: {require_attested_key: true}, allow: {node_labels: {'*': '*'}}}}`

func TestARoleThatRequiresAKeyInTheTPMRefusesOneInSoftware(t *testing.T) {
	r := start(t)
	r.create("role", strictRole)
	r.addUser("alice", "access", "strict")
	k, l, m := r.login("alice"), r.newLaptop("TAG12345"), r.newMac("MAC12345")
	l.enroll(k)
	m.enroll(k)

	_, err := l.prove(k, software)
	wantRefused(t, err, connect.CodePermissionDenied)
	const want = `role "strict" requires a key in the device's TPM`
	if err.Error() != want {
		t.Errorf("refused with: %v", err)
	}
	_, err = m.authenticate(k, identity.LoginBinding{User: "alice", SSHPublicKey: k.ssh.PublicKey().Marshal(), TLSPublicKey: k.der})
	wantRefused(t, err, connect.CodePermissionDenied)
	if err.Error() != want+", and a macOS device cannot prove one" {
		t.Errorf("a Mac is refused with: %v", err)
	}
	if got := column(t, r.database(), `SELECT serial FROM certificates WHERE device_id <> ''`); len(got) > 0 {
		t.Errorf("issued: %s", got)
	}
	if got := r.failed(event.DeviceAuthenticate); !slices.Equal(got, []string{want + ", and a macOS device cannot prove one", want}) {
		t.Errorf("recorded as failed: %q", got)
	}

	a := l.mustProve(k)
	if _, err := l.prove(a.keys, software, func(args *tpm.AuthArgs) {
		args.Binding.SSHPublicKey, args.Binding.TLSPublicKey = a.sshCert.Key.Marshal(), tlsDER(t, a)
	}); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("without the proof of the same keys: %v", err)
	}
}

// tlsDER is the TLS key of a, PKIX DER.
func tlsDER(t *testing.T, a attested) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(a.certificate.PrivateKey.(crypto.Signer).Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// taped keeps the last answer that was sent.
type taped struct {
	tpm.AuthenticateStream
	answer *dtv1.AuthenticateDeviceRequest
}

func (t *taped) Send(m *dtv1.AuthenticateDeviceRequest) error {
	if m.GetTpmChallengeResponse() != nil {
		t.answer = proto.CloneOf(m)
	}
	return t.AuthenticateStream.Send(m)
}

func TestACeremonyIsSpentOnce(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	stream := dtv1connect.NewDeviceServiceClient(r.connected(k), r.url()).AuthenticateDevice(t.Context())
	tape := &taped{AuthenticateStream: stream}
	a, err := l.proveOver(k, tape)
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(tape.answer) // it may be over already
	if _, err := stream.Receive(); err == nil {
		t.Error("an answer was taken twice")
	}

	id, err := identity.UnverifiedFromSSH(a.sshCert)
	if err != nil {
		t.Fatal(err)
	}
	before := column(t, r.database(), `SELECT serial FROM certificates`)
	other := dtv1connect.NewDeviceServiceClient(r.connected(a.keys), r.url()).AuthenticateDevice(t.Context())
	if err := other.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{
		Init: &dtv1.AuthenticateInit{CredentialId: id.Device.CredentialID, DeviceData: l.data},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Receive(); err != nil {
		t.Fatal(err)
	}
	_ = other.Send(tape.answer)
	_, err = other.Receive()
	wantCode(t, err, connect.CodePermissionDenied)
	if after := column(t, r.database(), `SELECT serial FROM certificates`); !slices.Equal(after, before) {
		t.Errorf("issued: %s", after[len(before):])
	}
}

func TestExplainTellsOfAnAttestedKey(t *testing.T) {
	d := newDesk(t)
	device := identity.Device{ID: "d", AssetTag: "TAG12345", CredentialID: "c"}
	proved := func(id *identity.Identity) {
		id.Device, id.PrivateKeyPolicy, id.KeyAttestation = device, identity.KeyPolicyHardware, strings.Repeat("ab", 32)
	}
	for _, of := range []struct {
		certificate *ssh.Certificate
		want        bool
	}{{d.certificate(proved), true}, {d.certificate(), false}} {
		m := &dtv1.ExplainRequest{Login: "root", Certificate: of.certificate.Marshal()}
		var said []string
		for _, rule := range d.explain(m).GetRules() {
			if rule.GetSource() == "certificate private-key-policy" {
				said = append(said, rule.GetEffect()+": "+rule.GetDetail())
			}
		}
		var want []string
		if of.want {
			want = []string{"allow: its key is proved to be in the TPM of device TAG12345, by proof abababababababab…"}
		}
		if !slices.Equal(said, want) {
			t.Errorf("it says %q, want %q", said, want)
		}
		d.read(func(tx *store.Tx) error {
			state, err := d.policyState(tx)
			if err != nil {
				return err
			}
			about, err := d.explainedCertificate(tx, state, m)
			if about.subject.KeyAttested != of.want {
				t.Errorf("policy is asked with %+v", about.subject)
			}
			return err
		})
	}
}

func (d *desk) read(f func(tx *store.Tx) error) {
	d.t.Helper()
	if err := d.db.Read(d.t.Context(), f); err != nil {
		d.t.Fatal(err)
	}
}

// What a login on a device would bring, where nobody asks for less.
func TestExplainExpectsAKeyInTheTPMOfDevicesThatHaveOne(t *testing.T) {
	d := newDesk(t)
	if _, err := d.devices.Add(t.Context(), "test", devices.NewDevice{OSType: "linux", AssetTag: "TAG12345"}); err != nil {
		t.Fatal(err)
	}
	for attestation, want := range map[string]bool{
		"tpm_ekpub": true, "tpm_ekcert": true, "tpm_ekcert_trusted": true, "macos_key": false, "": false, "something": false,
	} {
		d.write(func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE devices SET enroll_status = 'enrolled', owner = 'alice', credential_id = 'c', document = json_set(document,
				'$.spec.enroll_status', 'enrolled', '$.spec.owner', 'alice',
				'$.spec.credential', json('{"id":"c","public_key_der":"AA==","device_attestation_type":"` + attestation + `"}'))`)
			return err
		})
		d.read(func(tx *store.Tx) error {
			about, err := d.explained(tx, nil, &dtv1.ExplainRequest{User: "alice", Device: "TAG12345"})
			if err != nil || about.subject.DeviceAssetTag != "TAG12345" || about.subject.KeyAttested != want {
				t.Errorf("%q: policy is asked with %+v, %v", attestation, about.subject, err)
			}
			return nil
		})
	}
	if devices.HasTPM(resource.Device{}) {
		t.Error("a device that is not enrolled brings one")
	}
}

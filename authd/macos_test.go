package authd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/identity"
)

// mac is a machine without a TPM that is registered in a running cluster; its
// key is in memory.
type mac struct {
	r    *running
	key  *ecdsa.PrivateKey
	der  []byte
	id   string
	data *dtv1.DeviceData
}

func (r *running) newMac(tag string) *mac {
	r.t.Helper()
	k := newKeys(r.t)
	digest := sha256.Sum256(k.der)
	return &mac{r, k.tls, k.der, hex.EncodeToString(digest[:]), &dtv1.DeviceData{OsType: "macos", AssetTag: tag}}
}

func (m *mac) sign(nonce [32]byte) []byte {
	m.r.t.Helper()
	digest := sha256.Sum256(nonce[:])
	signature, err := ecdsa.SignASN1(rand.Reader, m.key, digest[:])
	if err != nil {
		m.r.t.Fatal(err)
	}
	return signature
}

// enroll registers the machine and makes it the device of k's person.
func (m *mac) enroll(k *keys) {
	m.r.t.Helper()
	added, err := dtv1connect.NewDeviceServiceClient(m.r.admin, "http://admin").AddDevice(m.r.t.Context(),
		connect.NewRequest(&dtv1.AddDeviceRequest{OsType: "macos", AssetTag: m.data.GetAssetTag(), Enroll: true}))
	if err != nil {
		m.r.t.Fatal(err)
	}
	s := dtv1connect.NewDeviceServiceClient(m.r.https(k), m.r.url()).EnrollDevice(m.r.t.Context())
	defer s.CloseRequest() //nolint:errcheck // the answer was read
	err = s.Send(&dtv1.EnrollDeviceRequest{Payload: &dtv1.EnrollDeviceRequest_Init{Init: &dtv1.EnrollInit{
		Token: added.Msg.GetToken().GetToken(), CredentialId: m.id, DeviceData: m.data, Macos: &dtv1.MacOSEnroll{PublicKeyDer: m.der},
	}}})
	if err != nil {
		m.r.t.Fatal(err)
	}
	msg, err := s.Receive()
	if err != nil {
		m.r.t.Fatal(err)
	}
	err = s.Send(&dtv1.EnrollDeviceRequest{Payload: &dtv1.EnrollDeviceRequest_MacosChallengeResponse{
		MacosChallengeResponse: &dtv1.MacOSEnrollChallengeResponse{Signature: m.sign(identity.EnrollNonce(identity.EnrollBinding{
			Challenge: msg.GetMacosChallenge().GetChallenge(), Cluster: "test", User: k.user(m.r.t), CredentialID: m.id,
		}))},
	}})
	if err != nil {
		m.r.t.Fatal(err)
	}
	if msg, err = s.Receive(); err != nil || msg.GetSuccess() == nil {
		m.r.t.Fatalf("got %v, %v", msg, err)
	}
}

// authenticate is the ceremony of a login; binding is what the machine takes
// it to be for.
func (m *mac) authenticate(k *keys, binding identity.LoginBinding) (*keys, error) {
	m.r.t.Helper()
	s := dtv1connect.NewDeviceServiceClient(m.r.https(k), m.r.url()).AuthenticateDevice(m.r.t.Context())
	defer s.CloseRequest() //nolint:errcheck // the answer was read
	err := s.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{
		Init: &dtv1.AuthenticateInit{CredentialId: m.id, DeviceData: m.data},
	}})
	if err != nil {
		return nil, err
	}
	msg, err := s.Receive()
	if err != nil {
		return nil, api.FromWire(err)
	}
	binding.Cluster, binding.CredentialID, binding.Challenge = "test", m.id, msg.GetChallenge().GetChallenge()
	err = s.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_MacosChallengeResponse{
		MacosChallengeResponse: &dtv1.MacOSAuthenticateChallengeResponse{Signature: m.sign(identity.LoginNonce(binding))},
	}})
	if err != nil {
		return nil, err
	}
	if msg, err = s.Receive(); err != nil {
		return nil, api.FromWire(err)
	}
	trusted := *k
	trusted.take(m.r.t, msg.GetSuccess().GetCertificates().GetSsh(), msg.GetSuccess().GetCertificates().GetTls())
	return &trusted, nil
}

// user is whose login k is.
func (k *keys) user(t *testing.T) string {
	t.Helper()
	id, err := identity.UnverifiedFromSSH(k.sshCert)
	if err != nil {
		t.Fatal(err)
	}
	return id.User
}

func TestAMacIsNamedInTheCertificatesOfItsLogins(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, m := r.login("alice"), r.newMac("C00AA0AAAA0A")
	m.enroll(k)
	binding := identity.LoginBinding{User: "alice", SSHPublicKey: k.ssh.PublicKey().Marshal(), TLSPublicKey: k.der}
	trusted, err := m.authenticate(k, binding)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.UnverifiedFromSSH(trusted.sshCert)
	if err != nil {
		t.Fatal(err)
	}
	if id.User != "alice" || id.Device.AssetTag != "C00AA0AAAA0A" || id.Device.CredentialID != m.id || !id.Device.Trusted() {
		t.Errorf("the certificate says %+v", id)
	}
}

func TestASignatureOfAMacForAnotherLoginGivesNoCertificate(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, other, m := r.login("alice"), r.login("alice"), r.newMac("C00AA0AAAA0A")
	m.enroll(k)
	_, err := m.authenticate(k, identity.LoginBinding{
		User: "alice", SSHPublicKey: other.ssh.PublicKey().Marshal(), TLSPublicKey: other.der,
	})
	wantRefused(t, err, connect.CodePermissionDenied)
	if got := column(t, r.database(), `SELECT serial FROM certificates WHERE device_id <> ''`); len(got) > 0 {
		t.Errorf("issued with a device: %s", got)
	}
	if got := column(t, r.database(), `SELECT record FROM audit_log WHERE event = 'device.authenticate' AND NOT success`); len(got) != 1 {
		t.Errorf("the failure is recorded as %q", got)
	}
}

package authd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
)

// enroll registers and enrolls a machine; happens is called in mid-ceremony.
func (r *running) enroll(k *keys, chip *tpmtest.TPM, os, tag string, happens func()) error {
	r.t.Helper()
	token, err := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin").AddDevice(r.t.Context(),
		connect.NewRequest(&dtv1.AddDeviceRequest{OsType: os, AssetTag: tag, Enroll: true}))
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := tpm.Open(r.t.Context(), chip.Address)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Enroll(r.t.Context(), tpm.EnrollArgs{
		Token: token.Msg.GetToken().GetToken(), Cluster: "test", User: k.user(r.t),
		Data:      &dtv1.DeviceData{OsType: os, AssetTag: tag},
		StatePath: filepath.Join(r.t.TempDir(), "device", "state.json"),
	}, &interrupted{
		EnrollStream: dtv1connect.NewDeviceServiceClient(r.https(k), r.url()).EnrollDevice(r.t.Context()), happens: happens,
	})
	return err
}

// makerCA is a CA for ekcert_allowed_cas, in PEM.
func makerCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestAnEnrollmentIsHeldToTheCAsThatAreAllowedAtItsEnd(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	ca, err := json.Marshal(makerCA(t))
	if err != nil {
		t.Fatal(err)
	}
	err = r.enroll(r.login("alice"), tpmtest.Start(t), "linux", "TAG1", func() {
		doc := `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"device_trust":{"mode":"required","ekcert_allowed_cas":[` + string(ca) + `]}}}`
		if _, err := r.resources().UpdateResource(t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "cluster_auth_preference", Resource: []byte(doc)})); err != nil {
			t.Error(err)
		}
	})
	wantRefused(t, err, connect.CodeAborted)
	if owned := column(t, r.database(), `SELECT asset_tag FROM devices WHERE owner <> ''`); len(owned) > 0 {
		t.Errorf("%v are enrolled", owned)
	}
}

func TestALockedMachineDoesNotComeBackAsAnotherOperatingSystem(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, chip := r.login("alice"), tpmtest.Start(t)
	nothing := func() {}
	if err := r.enroll(k, chip, "linux", "TAG1", nothing); err != nil {
		t.Fatal(err)
	}
	locked := column(t, r.database(), `SELECT id FROM devices`)[0]
	doc := `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {device: ` + locked + `}}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: []byte(doc)})); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, r.enroll(k, chip, "windows", "TAG1", nothing), connect.CodePermissionDenied)
	if owned := column(t, r.database(), `SELECT os_type FROM devices WHERE owner <> ''`); len(owned) != 1 {
		t.Errorf("enrolled are %v", owned)
	}
	if _, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "device", Name: column(t, r.database(), `SELECT id FROM devices WHERE os_type = 'windows'`)[0]})); err != nil {
		t.Fatal(err)
	}
	if _, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "lock", Name: "l1"})); err != nil {
		t.Fatal(err)
	}
	if err := r.enroll(k, chip, "windows", "TAG1", nothing); err != nil {
		t.Errorf("the lock is gone: %v", err)
	}
}

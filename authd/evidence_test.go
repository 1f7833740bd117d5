package authd

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
)

func preferring(trust string) []byte {
	return []byte(`{kind: cluster_auth_preference, version: v2, metadata: {name: cluster-auth-preference}, spec: {device_trust: ` + trust + `}}`)
}

// update changes what the machine has started.
func (l *laptop) update(pcr uint32) {
	l.r.t.Helper()
	l.chip.Do(l.r.t, func(c transport.TPM) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
		}.Execute(c)
		return err
	})
}

// authenticated is the whole answer to authenticate.
func (l *laptop) authenticated(k *keys) (*dtv1.AuthenticateSuccess, error) {
	id, err := identity.UnverifiedFromSSH(k.sshCert)
	if err != nil {
		l.r.t.Fatal(err)
	}
	chip := l.open()
	defer chip.Close()
	proved, err := chip.Authenticate(l.r.t.Context(), tpm.AuthArgs{StatePath: l.state, Data: l.data, Binding: identity.LoginBinding{
		Cluster: "test", User: id.User, SSHPublicKey: k.ssh.PublicKey().Marshal(), TLSPublicKey: k.der,
	}}, dtv1connect.NewDeviceServiceClient(l.r.https(k), l.r.url()).AuthenticateDevice(l.r.t.Context()))
	return proved.Success, err
}

// evaluate gives what is said of each device, "TAG pass" or "TAG fail: …".
func (r *running) evaluate(req *dtv1.EvaluateDevicesRequest) (lines []string, err error) {
	stream, err := (&laptop{r: r}).admin().EvaluateDevices(r.t.Context(), connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for stream.Receive() {
		line := stream.Msg().GetAssetTag() + " fail: "
		if stream.Msg().GetPasses() {
			line = stream.Msg().GetAssetTag() + " pass: "
		}
		lines = append(lines, line+strings.Join(stream.Msg().GetReasons(), "; "))
	}
	return lines, stream.Err()
}

func TestThePolicyInForceDecidesOnPCRsThatChanged(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	success, err := l.authenticated(k)
	if err != nil || success.GetEvidenceLevel() != "quote" || len(success.GetWarnings()) > 0 {
		t.Fatalf("%v, %v", success, err)
	}
	l.update(4)
	if success, err = l.authenticated(k); err != nil || len(success.GetWarnings()) > 0 {
		t.Errorf("without a policy: %v, %v", success, err)
	}
	r.prefer("{pcr_policy: warn}")
	if success, err = l.authenticated(k); err != nil || len(success.GetWarnings()) != 1 || !strings.Contains(success.GetWarnings()[0], "PCR 4 changed") {
		t.Errorf("with a warning: %v, %v", success, err)
	}
	r.prefer("{pcr_policy: enforce, pcrs: [0, 7]}")
	if _, err = l.authenticated(k); err != nil {
		t.Errorf("with other PCRs: %v", err)
	}
	r.prefer("{pcr_policy: enforce}")
	_, err = l.authenticated(k)
	wantRefused(t, err, connect.CodeFailedPrecondition)

	for preference, want := range map[string]string{
		"":                    "TAG12345 fail: PCR 4 changed; event log: empty",
		"{pcr_policy: warn}":  "TAG12345 pass: PCR 4 changed; event log: empty",
		"{mode: required}":    "TAG12345 pass: PCR 4 changed; event log: empty",
		"{pcr_policy: wrong}": "",
	} {
		req := &dtv1.EvaluateDevicesRequest{}
		if preference != "" {
			req.Preference = preferring(preference)
		}
		lines, err := r.evaluate(req)
		if want == "" {
			wantCode(t, err, connect.CodeInvalidArgument)
		} else if err != nil || len(lines) != 1 || lines[0] != want {
			t.Errorf("%s: %q, %v", preference, lines, err)
		}
	}
	_, err = r.evaluate(&dtv1.EvaluateDevicesRequest{Device: &dtv1.DeviceRef{}})
	wantCode(t, err, connect.CodeInvalidArgument)

	accepted, err := l.admin().AcceptDevice(t.Context(), connect.NewRequest(&dtv1.AcceptDeviceRequest{Device: &dtv1.DeviceRef{AssetTag: "TAG12345"}}))
	if err != nil || len(accepted.Msg.GetChanges()) != 1 {
		t.Fatalf("%v, %v", accepted, err)
	}
	if _, err = l.authenticated(k); err != nil {
		t.Error(err)
	}
}

func TestAFreezeEndsWhatTheDeviceGave(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, l := r.login("alice"), r.newLaptop("TAG12345")
	l.enroll(k)
	l.trust(k)
	revoked := func() string {
		return strings.Join(column(t, r.database(), `SELECT DISTINCT revoked_reason FROM certificates WHERE device_id <> ''`), ", ")
	}
	if got := revoked(); got != "" {
		t.Fatalf("ended already: %q", got)
	}
	l.chip.Clear(t)
	_, err := l.authenticated(r.login("alice"))
	wantRefused(t, err, connect.CodeFailedPrecondition)
	if got := revoked(); got != "the device was frozen" {
		t.Errorf("ended: %q", got)
	}
}

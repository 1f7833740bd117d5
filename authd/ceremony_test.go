package authd

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/identity"
)

// laptop is a machine with a TPM that is registered in a running cluster.
type laptop struct {
	r     *running
	chip  *tpmtest.TPM
	data  *dtv1.DeviceData
	state string
}

func (r *running) newLaptop(tag string) *laptop {
	r.t.Helper()
	l := &laptop{
		r: r, chip: tpmtest.Start(r.t), data: &dtv1.DeviceData{OsType: "linux", AssetTag: tag},
		state: filepath.Join(r.t.TempDir(), "device", "state.json"),
	}
	if _, err := l.admin().AddDevice(r.t.Context(), connect.NewRequest(&dtv1.AddDeviceRequest{OsType: "linux", AssetTag: tag})); err != nil {
		r.t.Fatal(err)
	}
	return l
}

func (l *laptop) admin() dtv1connect.DeviceServiceClient {
	return dtv1connect.NewDeviceServiceClient(l.r.admin, "http://admin")
}

func (l *laptop) open() *tpm.TPM {
	l.r.t.Helper()
	chip, err := tpm.Open(l.r.t.Context(), l.chip.Address)
	if err != nil {
		l.r.t.Fatal(err)
	}
	return chip
}

// enroll makes it the device of k's person, with a token of an administrator's.
func (l *laptop) enroll(k *keys) {
	l.r.t.Helper()
	ctx := l.r.t.Context()
	token, err := l.admin().CreateEnrollToken(ctx, connect.NewRequest(&dtv1.CreateEnrollTokenRequest{Device: &dtv1.DeviceRef{AssetTag: l.data.GetAssetTag()}}))
	if err != nil {
		l.r.t.Fatal(err)
	}
	chip := l.open()
	defer chip.Close()
	_, err = chip.Enroll(ctx, tpm.EnrollArgs{Token: token.Msg.GetToken(), Cluster: "test", User: k.user(l.r.t), Data: l.data, StatePath: l.state},
		dtv1connect.NewDeviceServiceClient(l.r.https(k), l.r.url()).EnrollDevice(ctx))
	if err != nil {
		l.r.t.Fatal(err)
	}
}

// authenticate is the ceremony of a login; it gives the same keys with the
// certificates that name the device.
func (l *laptop) authenticate(k *keys) (*keys, error) {
	l.r.t.Helper()
	id, err := identity.UnverifiedFromSSH(k.sshCert)
	if err != nil {
		l.r.t.Fatal(err)
	}
	chip := l.open()
	defer chip.Close()
	proved, err := chip.Authenticate(l.r.t.Context(), tpm.AuthArgs{StatePath: l.state, Data: l.data, Binding: identity.LoginBinding{
		Cluster: "test", User: id.User, SSHPublicKey: k.ssh.PublicKey().Marshal(), TLSPublicKey: k.der,
	}}, dtv1connect.NewDeviceServiceClient(l.r.https(k), l.r.url()).AuthenticateDevice(l.r.t.Context()))
	if err != nil {
		return nil, err
	}
	trusted := *k
	trusted.take(l.r.t, proved.Success.GetCertificates().GetSsh(), proved.Success.GetCertificates().GetTls())
	return &trusted, nil
}

// trust is authenticate that must succeed.
func (l *laptop) trust(k *keys) *keys {
	l.r.t.Helper()
	trusted, err := l.authenticate(k)
	if err != nil {
		l.r.t.Fatal(err)
	}
	return trusted
}

// loginFor is login for a time.
func (r *running) loginFor(name string, ttl time.Duration) *keys {
	r.t.Helper()
	k := newKeys(r.t)
	res, err := dtv1connect.NewLoginServiceClient(r.https(nil), r.url()).Login(r.t.Context(), connect.NewRequest(&dtv1.LoginRequest{
		User: name, Password: goodPassword, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der, Ttl: durationpb.New(ttl),
	}))
	if err != nil {
		r.t.Fatal(err)
	}
	k.take(r.t, res.Msg.GetCertificates().GetSsh(), res.Msg.GetCertificates().GetTls())
	return k
}

func (r *running) execute(query string) {
	r.t.Helper()
	if _, err := r.database().ExecContext(r.t.Context(), query); err != nil {
		r.t.Fatal(err)
	}
}

func TestADeviceIsAddedToALoginAndDoesNotLengthenIt(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	short := r.loginFor("alice", 10*time.Minute)
	l := r.newLaptop("TAG12345")
	l.enroll(short)
	trusted := l.trust(short)
	id, err := identity.UnverifiedFromSSH(trusted.sshCert)
	if err != nil {
		t.Fatal(err)
	}
	if id.User != "alice" || id.Device.AssetTag != "TAG12345" {
		t.Errorf("the certificate says %+v", id)
	}
	if got, want := trusted.sshCert.ValidBefore, short.sshCert.ValidBefore; got != want {
		t.Errorf("it lives until %d, and the login until %d", got, want)
	}
	if got := column(t, r.database(), `SELECT device_id FROM logins`); !slices.Equal(got, []string{id.Device.ID}) {
		t.Errorf("the logins are marked with %q, want %s", got, id.Device.ID)
	}
}

// What the triggers do is what an administrator could have done at that moment.
func TestADeviceThatEndsAfterItProvedItselfGetsNoCertificate(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := r.login("alice")
	for name, end := range map[string]string{
		"REMOVED1": `DELETE FROM devices WHERE asset_tag = 'REMOVED1'`,
		"UNENROLL": `UPDATE devices SET enroll_status = 'not_enrolled', document = json_set(document, '$.spec.enroll_status', 'not_enrolled') WHERE asset_tag = 'UNENROLL'`,
		"FROZEN01": `UPDATE devices SET document = json_set(document, '$.spec.frozen', json('{"time":"2026-01-02T03:04:05Z","reason":"it went back"}')) WHERE asset_tag = 'FROZEN01'`,
		"ANOTHERS": `UPDATE devices SET owner = 'bob', document = json_set(document, '$.spec.owner', 'bob') WHERE asset_tag = 'ANOTHERS'`,
	} {
		t.Run(name, func(t *testing.T) {
			l := r.newLaptop(name)
			l.enroll(k)
			r.execute(`CREATE TRIGGER meanwhile AFTER INSERT ON audit_log WHEN NEW.event = 'device.authenticate' AND NEW.success BEGIN ` + end + `; END`)
			defer r.execute(`DROP TRIGGER meanwhile`)
			if trusted, err := l.authenticate(k); err == nil {
				t.Errorf("certificate %d names the device", trusted.sshCert.Serial)
			}
			if got := column(t, r.database(), `SELECT serial FROM certificates WHERE device_id <> ''`); len(got) > 0 {
				t.Errorf("issued with a device: %s", got)
			}
			if got := column(t, r.database(), `SELECT record FROM audit_log WHERE event = 'device.authenticate' AND NOT success AND record LIKE '%`+name+`%'`); len(got) != 1 {
				t.Errorf("the failure is recorded as %q", got)
			}
		})
	}
}

// Two looks see it, the server's own and MarkDevice's.
func TestALoginThatEndsAfterTheDeviceProvedItselfGetsNoCertificate(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := r.login("alice")
	l := r.newLaptop("TAG12345")
	l.enroll(k)
	r.execute(`CREATE TRIGGER meanwhile AFTER INSERT ON audit_log WHEN NEW.event = 'device.authenticate' AND NEW.success BEGIN DELETE FROM logins; END`)
	_, err := l.authenticate(k)
	wantRefused(t, err, connect.CodeUnauthenticated)
	if got := column(t, r.database(), `SELECT serial FROM certificates WHERE device_id <> ''`); len(got) > 0 {
		t.Errorf("issued with a device: %s", got)
	}
}

func TestWhatIsTakenAwayWhileALoginIsRecordedIsNotIssued(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access", "auditor")
	for name, change := range map[string]string{
		"a role":  `UPDATE users SET document = json_set(document, '$.spec.roles', json('["access"]'))`,
		"a login": `UPDATE users SET document = json_set(document, '$.spec.traits.logins', json('["nobody"]'))`,
	} {
		t.Run(name, func(t *testing.T) {
			r.execute(`CREATE TRIGGER meanwhile AFTER INSERT ON logins BEGIN ` + change + `; END`)
			defer r.execute(`DROP TRIGGER meanwhile`)
			k := newKeys(t)
			_, err := dtv1connect.NewLoginServiceClient(r.https(nil), r.url()).Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{
				User: "alice", Password: goodPassword, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
			}))
			wantCode(t, err, connect.CodeAborted)
		})
	}
	r.login("alice") // nothing is taken away any more
}

func TestAResetEndsTheCertificatesToo(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, node := r.login("alice"), r.join("n")
	if _, err := r.adminService().ResetUser(t.Context(), connect.NewRequest(&dtv1.ResetUserRequest{Name: "alice"})); err != nil {
		t.Fatal(err)
	}
	r.hearsOf(node, k.sshCert.Serial)
}

func TestEnrollingAgainEndsWhatTheKeyBeforeGave(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, node := r.login("alice"), r.join("n")
	l := r.newLaptop("TAG12345")
	l.enroll(k)
	trusted := l.trust(k)
	if isRevoked(r.nextState(node, 0), trusted.sshCert.Serial) {
		t.Fatal("it is revoked before")
	}
	l.enroll(k)
	r.hearsOf(node, trusted.sshCert.Serial)
	if isRevoked(r.nextState(node, 0), k.sshCert.Serial) {
		t.Error("the login without the device has ended, too")
	}
}

func TestTheDevicesOfSomebodyWhoIsRemovedAreNobodys(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k, node := r.login("alice"), r.join("n")
	l := r.newLaptop("TAG12345")
	l.enroll(k)
	trusted := l.trust(k)
	if _, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "user", Name: "alice"})); err != nil {
		t.Fatal(err)
	}
	if got := column(t, r.database(), `SELECT asset_tag FROM devices WHERE owner <> '' OR enroll_status <> 'not_enrolled'`); len(got) > 0 {
		t.Errorf("%q are enrolled", got)
	}
	r.hearsOf(node, trusted.sshCert.Serial)
	// Somebody else who is given the name.
	r.addUser("alice", "access")
	if _, err := l.authenticate(r.login("alice")); err == nil {
		t.Error("the device is that of the next one of this name")
	}
}

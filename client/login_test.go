package client

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client/clienttest"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
	"devicetrust/resource"
)

func TestALoginGivesCertificatesThatTheClusterKnows(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	loggedIn(t, c, h, nil)
	p, err := LoadProfile(h.Dir(), "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(p, options()) // by what the login brought, without the pin
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Nodes(t.Context(), nil); err != nil {
		t.Error(err)
	}
	hosts, err := p.HostAuthorities()
	if err != nil || len(hosts) != 1 || string(hosts[0].Marshal()) != string(c.HostAuthority.PublicKey().Marshal()) {
		t.Errorf("host authorities %v, %v", hosts, err)
	}
	creds, err := p.Credentials()
	if err != nil || creds.Identity.User != "alice" || creds.Identity.Device.Trusted() {
		t.Errorf("identity %+v, %v", creds.Identity, err)
	}
}

func TestAnAnswerThatDoesNotFitTheQuestionIsRefused(t *testing.T) {
	keys, err := newKeys()
	if err != nil {
		t.Fatal(err)
	}
	theirSSH, theirTLS, err := keys.public()
	if err != nil {
		t.Fatal(err)
	}
	donor := clienttest.Start(t)
	other := loggedIn(t, donor, newHome(t), nil)
	creds, err := other.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*dtv1.Certificates){
		"an SSH certificate for another key": func(m *dtv1.Certificates) { m.Ssh = creds.SSH.Marshal() },
		"a TLS certificate for another key":  func(m *dtv1.Certificates) { m.Tls = creds.TLS.Raw },
		"a plain SSH key":                    func(m *dtv1.Certificates) { m.Ssh = theirSSH },
		"no TLS certificate":                 func(m *dtv1.Certificates) { m.Tls = theirTLS },
		"nothing":                            func(m *dtv1.Certificates) { m.Ssh, m.Tls = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			c, h := clienttest.Start(t), newHome(t)
			c.Certificates = change
			p, err := h.Profile(c.Proxy)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Login(t.Context(), ask(c, nil), options()); err == nil || !strings.Contains(err.Error(), "unusable answer") {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(h.Dir()); err == nil {
				t.Error("something was kept")
			}
		})
	}
}

func TestACertificateOfAnotherUserIsRefused(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	creds, err := loggedIn(t, c, h, nil).Credentials()
	if err != nil {
		t.Fatal(err)
	}
	l := &newLogin{}
	certs := &dtv1.Certificates{Ssh: creds.SSH.Marshal(), Tls: creds.TLS.Raw}
	if err := l.take(creds.keys, certs, "bob"); err == nil {
		t.Error("bob takes alice's certificate")
	}
	if err := l.take(creds.keys, certs, "alice"); err != nil {
		t.Error(err)
	}
}

func TestHowTheDeviceCeremonyEndsIsKept(t *testing.T) {
	refuse := func(err error) Prover {
		return func(context.Context, tpm.AuthArgs, tpm.AuthenticateStream) (tpm.Authenticated, error) {
			return tpm.Authenticated{}, err
		}
	}
	for _, tt := range []struct {
		name   string
		mode   string
		server error
		prove  Prover
		want   DeviceOutcome // the zero value: trusted
	}{
		{"authenticated", "optional", nil, clienttest.Prove, DeviceOutcome{}},
		{"required and authenticated", "required", nil, clienttest.Prove, DeviceOutcome{}},
		{"not wanted", "off", nil, clienttest.Prove, DeviceOutcome{Reason: "device trust is off in this cluster"}},
		{"no TPM", "optional", nil, nil, DeviceOutcome{Reason: "this machine's TPM was not asked"}},
		{"refused by the machine", "optional", nil, refuse(api.Refuse(connect.CodeFailedPrecondition, "the TPM was cleared").WithHint("enroll again")),
			DeviceOutcome{Reason: "the TPM was cleared", Hint: "enroll again"}},
		{"a fault of the machine", "optional", nil, refuse(errors.New("the TPM burns")), DeviceOutcome{Reason: "the TPM burns"}},
		{"refused by the server", "required", api.Refuse(connect.CodePermissionDenied, "device X is enrolled by another user").WithHint("ask"), clienttest.Prove,
			DeviceOutcome{Reason: "device X is enrolled by another user", Hint: "ask"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, h := clienttest.Start(t), newHome(t)
			c.Mode, c.ErrDevice = tt.mode, tt.server
			loggedIn(t, c, h, tt.prove)
			p, err := LoadProfile(h.Dir(), "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, p.Device); diff != "" {
				t.Error(diff)
			}
			s, err := p.Status()
			if err != nil || s.Device.Trusted != (tt.want.Reason == "") {
				t.Errorf("device %+v, %v", s.Device, err)
			}
		})
	}
}

func TestALoginEnrollsAMachineThatTheClusterDoesNotKnow(t *testing.T) {
	unknown := api.Refuse(connect.CodeNotFound, "this device is not enrolled, or not any more")
	forgot := errors.Join(tpm.ErrNotEnrolled, api.Refuse(connect.CodeFailedPrecondition, "this device is not enrolled"))
	stale := errors.Join(tpm.ErrStaleKey, api.Refuse(connect.CodeFailedPrecondition, "the TPM was cleared"))
	const trusted = ""
	for _, tt := range []struct {
		name     string
		mode     string
		off      bool // the cluster enrolls nobody
		disabled bool // the person does not want it
		before   error
		enroll   error
		reason   string
		asked    int
	}{
		{name: "it remembers nothing", before: forgot, reason: trusted, asked: 1},
		{name: "the cluster has forgotten it", before: unknown, reason: trusted, asked: 1},
		{name: "it is known", reason: trusted},
		{name: "its TPM was cleared", before: stale, reason: "the TPM was cleared"},
		{name: "the cluster does not do it", off: true, before: forgot, reason: "this device is not enrolled"},
		{name: "the cluster has no device trust", mode: "off", before: forgot, reason: "device trust is off in this cluster"},
		{name: "the person does not want it", disabled: true, before: forgot, reason: "this device is not enrolled"},
		{name: "it is refused", before: forgot, enroll: api.Refuse(connect.CodePermissionDenied, "it is another's"), reason: "it is another's", asked: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, h := clienttest.Start(t), newHome(t)
			c.AutoEnroll = !tt.off
			if tt.mode != "" {
				c.Mode = tt.mode
			}
			before, asked := tt.before, 0
			want := ask(c, func(ctx context.Context, args tpm.AuthArgs, s tpm.AuthenticateStream) (tpm.Authenticated, error) {
				if before != nil {
					return tpm.Authenticated{}, before
				}
				return clienttest.Prove(ctx, args, s)
			})
			if !tt.disabled {
				want.Enroll = func(_ context.Context, p *Profile, conn *Conn) (resource.Device, error) {
					if asked++; tt.enroll == nil {
						before = nil
					}
					if p.Cluster != clienttest.Name || conn == nil {
						t.Errorf("asked to enroll in %q over %v", p.Cluster, conn)
					}
					return resource.Device{}, tt.enroll
				}
			}
			p, err := h.Profile(c.Proxy)
			if err != nil {
				t.Fatal(err)
			}
			creds, err := p.Login(t.Context(), want, options())
			if err != nil {
				t.Fatal(err)
			}
			if asked != tt.asked || !strings.HasSuffix(p.Device.Reason, tt.reason) || creds.Identity.Device.Trusted() != (tt.reason == trusted) {
				t.Errorf("asked %d times, device %+v, reason %q", asked, creds.Identity.Device, p.Device.Reason)
			}
		})
	}
}

func TestTheQuoteIsBoundToTheKeysThatAreKept(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	var bound identity.LoginBinding
	p := loggedIn(t, c, h, func(ctx context.Context, args tpm.AuthArgs, s tpm.AuthenticateStream) (tpm.Authenticated, error) {
		bound = args.Binding
		return clienttest.Prove(ctx, args, s)
	})
	creds, err := p.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	want := identity.LoginBinding{
		Cluster: clienttest.Name, User: "alice",
		SSHPublicKey: creds.SSH.Key.Marshal(), TLSPublicKey: creds.TLS.RawSubjectPublicKeyInfo,
	}
	if diff := cmp.Diff(want, bound); diff != "" {
		t.Error(diff)
	}
}

func TestASuccessWithoutADeviceInTheCertificateIsNone(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	var first *dtv1.Certificates
	c.Certificates = func(m *dtv1.Certificates) {
		if first == nil {
			first = &dtv1.Certificates{Ssh: m.GetSsh(), Tls: m.GetTls()}
		}
		m.Ssh, m.Tls = first.GetSsh(), first.GetTls()
	}
	p := loggedIn(t, c, h, clienttest.Prove)
	if s, err := p.Status(); err != nil || s.Device.Trusted || s.Device.Reason == "" {
		t.Errorf("device %+v, %v", s.Device, err)
	}
}

func TestLoggingInAgainReplacesTheLoginAndLeavesItToGoOn(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	before, err := loggedIn(t, c, h, nil).Credentials()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Ended(); len(got) != 0 {
		t.Fatalf("ended %q", got)
	}
	after, err := loggedIn(t, c, h, clienttest.Prove).Credentials()
	if err != nil {
		t.Fatal(err)
	}
	if string(before.SSH.Key.Marshal()) == string(after.SSH.Key.Marshal()) || before.keys.tls.(*ecdsa.PrivateKey).Equal(after.keys.tls) {
		t.Error("a key is used again")
	}
	if got := c.Ended(); len(got) != 0 {
		t.Errorf("the login before was ended: %q", got)
	}
	if !after.Identity.Device.Trusted() {
		t.Error("the login was not upgraded")
	}
}

func TestAFailedLoginLeavesTheOneThereWas(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, nil)
	before, err := p.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	wrong := ask(c, nil)
	wrong.Password = "wrong"
	if _, err := p.Login(t.Context(), wrong, options()); err == nil {
		t.Fatal("logged in with a wrong password")
	}
	odd := ask(c, nil)
	odd.User = "known_hosts"
	if _, err := p.Login(t.Context(), odd, options()); err == nil {
		t.Fatal("logged in as a file")
	}
	after, err := p.Credentials()
	if err != nil || string(after.SSH.Marshal()) != string(before.SSH.Marshal()) || len(c.Ended()) != 0 {
		t.Errorf("the login before is not as it was: %v, ended %q", err, c.Ended())
	}
}

func TestALoginThatFailsLateLeavesTheOneThereWas(t *testing.T) {
	// A file or a folder in the way, for root may write anywhere.
	for name, obstruct := range map[string]func(h *Home) error{
		"the profile cannot be written": func(h *Home) error {
			return errors.Join(os.Rename(h.path("profiles"), h.path("kept")), os.WriteFile(h.path("profiles"), nil, 0o600))
		},
		"the profile cannot be made the current one": func(h *Home) error {
			return errors.Join(os.Symlink("profiles", h.path("kept")), os.Remove(h.path("current-profile")), os.MkdirAll(h.path("current-profile", "x"), 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, h := clienttest.Start(t), newHome(t)
			p := loggedIn(t, c, h, nil)
			before, err := p.Credentials()
			if err != nil {
				t.Fatal(err)
			}
			profile, err := h.read("profiles", fileName(c.Proxy)+".json")
			if err != nil {
				t.Fatal(err)
			}
			if err := obstruct(h); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Login(t.Context(), ask(c, clienttest.Prove), options()); err == nil {
				t.Fatal("no error")
			}
			after, err := p.Credentials()
			if err != nil || string(after.SSH.Marshal()) != string(before.SSH.Marshal()) {
				t.Errorf("the keys before are not as they were: %v", err)
			}
			if got, err := h.read("kept", fileName(c.Proxy)+".json"); err != nil || string(got) != string(profile) {
				t.Errorf("the profile became %s, %v", got, err)
			}
			if diff := cmp.Diff([]string{"alice"}, c.Ended()); diff != "" {
				t.Errorf("of the two logins, the failed one is to be ended: %s", diff)
			}
			if diff := cmp.Diff([]string{fileName(c.Proxy)}, entries(t, h.path("keys"))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAFirstLoginThatFailsLateKeepsNothing(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p, err := h.Profile(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.folder("current-profile", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Login(t.Context(), ask(c, nil), options()); err == nil {
		t.Fatal("no error")
	}
	for _, folder := range []string{"keys", "profiles"} {
		if left := entries(t, h.path(folder)); len(left) != 0 {
			t.Errorf("%q is in %s", left, folder)
		}
	}
}

func TestFoldersAreExchangedInStepsWhereTheyMustBe(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if err := errors.Join(os.MkdirAll(filepath.Join(one, "1"), 0o700), os.MkdirAll(filepath.Join(two, "2"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := moveInto(one, two); err != nil {
		t.Fatal(err)
	}
	for folder, want := range map[string][]string{dir: {"one", "two"}, one: {"2"}, two: {"1"}} {
		if diff := cmp.Diff(want, entries(t, folder)); diff != "" {
			t.Errorf("%s: %s", folder, diff)
		}
	}
	if err := moveInto(filepath.Join(dir, "none"), two); err == nil {
		t.Error("nothing was exchanged for something")
	}
	if diff := cmp.Diff([]string{"1"}, entries(t, two)); diff != "" {
		t.Errorf("after a failure: %s", diff)
	}
}

func TestALoginWhoseKeysCannotBeKeptIsEnded(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p, err := h.Profile(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	// A file where the folder of keys should be, for root may write anywhere.
	if err := h.write([]byte("in the way"), "keys"); err != nil {
		t.Fatal(err)
	}
	_, err = p.Login(t.Context(), ask(c, nil), options())
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, "cannot write") || r.Hint == "" {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"alice"}, c.Ended()); diff != "" {
		t.Error(diff)
	}
}

func TestCtrlCDuringTheCeremonyEndsTheLogin(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p, err := h.Profile(c.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = p.Login(ctx, ask(c, func(context.Context, tpm.AuthArgs, tpm.AuthenticateStream) (tpm.Authenticated, error) {
		cancel()
		return tpm.Authenticated{}, ctx.Err()
	}), options())
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"alice"}, c.Ended()); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(h.Dir()); err == nil {
		t.Error("something was kept")
	}
}

func TestAnExpiredLoginIsSaidToBe(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, nil)
	later := Options{Now: func() time.Time { return time.Now().Add(13 * time.Hour) }}
	_, err := Dial(p, later)
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, "expired") || !strings.Contains(r.Hint, "dtsh login") {
		t.Errorf("error %v", err)
	}
}

func TestLogoutEndsEveryLoginAndKeepsWhatIsNoSecret(t *testing.T) {
	one, two, h := clienttest.Start(t), clienttest.Start(t), newHome(t)
	loggedIn(t, one, h, nil)
	loggedIn(t, two, h, nil)
	if err := h.write([]byte("{}"), "device", "state.json"); err != nil {
		t.Fatal(err)
	}
	two.Stop()
	problems, err := h.LogoutAll(t.Context(), options())
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), two.Proxy) {
		t.Errorf("problems %v, want one of %s", problems, two.Proxy)
	}
	if diff := cmp.Diff([]string{"alice"}, one.Ended()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"current-profile", "device", "lock", "profiles"}, entries(t, h.Dir())); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(h.DeviceState()); err != nil {
		t.Error(err)
	}
	if _, err := LoadProfile(h.Dir(), one.Proxy); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("error %v", err)
	}
	// The cluster is believed as before.
	p, err := h.Profile(one.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	again := ask(one, nil)
	if again.Trust, err = NewTrust(nil, "", p.Trust); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Login(t.Context(), again, options()); err != nil {
		t.Error(err)
	}
	if problems, err := h.LogoutAll(t.Context(), options()); err != nil || len(problems) != 0 {
		t.Errorf("again: %v, %v", problems, err)
	}
	if problems, err := newHome(t).LogoutAll(t.Context(), options()); err != nil || len(problems) != 0 {
		t.Errorf("of nobody: %v, %v", problems, err)
	}
}

func TestLogoutTakesAwayWhatCannotBeRead(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	loggedIn(t, c, h, nil)
	if err := h.write([]byte("bad"), "profiles", fileName(c.Proxy)+".json"); err != nil {
		t.Fatal(err)
	}
	problems, err := h.LogoutAll(t.Context(), options())
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Error(), "cannot be read") {
		t.Errorf("%v, problems %v", err, problems)
	}
	if _, err := h.Profile(c.Proxy); err != nil {
		t.Errorf("nobody can log in again: %v", err)
	}
}

func TestStatusHasTheKeysThatScriptsRead(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, clienttest.Prove)
	s, err := p.Status()
	if err != nil {
		t.Fatal(err)
	}
	s.ValidUntil = time.Date(2023, 6, 23, 5, 47, 5, 0, time.UTC)
	s.Device.Attestation = "tpm_ekpub"
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/status.json")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(c.Proxy, "PROXY", h.path("keys", fileName(c.Proxy)), "KEYS").Replace(string(got)) + "\n"
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Error(diff)
	}
}

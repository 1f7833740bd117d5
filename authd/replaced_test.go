package authd

import (
	"math"
	"slices"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
)

func (r *running) logoutWith(k *keys, replaced ...uint64) error {
	_, err := dtv1connect.NewLoginServiceClient(r.https(k), r.url()).Logout(r.t.Context(), connect.NewRequest(&dtv1.LogoutRequest{ReplacedSerials: replaced}))
	return err
}

func TestALogoutEndsTheLoginsThatItReplaced(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	r.addUser("bob", "access")
	first, second, own, kept, bob, node := r.login("alice"), r.login("alice"), r.login("alice"), r.login("alice"), r.login("bob"), r.join("n")
	// One whose own certificate is revoked has others.
	r.execute(`UPDATE certificates SET revoked_at = 1, revoked_reason = 'the device was frozen' WHERE serial = (SELECT max(serial) - 1 FROM certificates WHERE login_id = (SELECT id FROM logins ORDER BY created_at LIMIT 1))`)
	if got := r.onKRL(first, second); !slices.Equal(got, []bool{true, false}) {
		t.Fatalf("on the list before: %v", got)
	}
	serials := []uint64{
		first.sshCert.Serial, second.sshCert.Serial, second.sshCert.Serial, own.sshCert.Serial,
		bob.sshCert.Serial, node.sshCert.Serial, 0, 4711, math.MaxInt64 + 1, math.MaxUint64,
	}
	if err := r.logoutWith(own, serials...); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*keys{"first": first, "second": second, "own": own} {
		wantCode(t, r.mayCallWith(k), connect.CodeUnauthenticated)
		if got := r.onKRL(k); !got[0] {
			t.Errorf("the %s certificate is not on the list", name)
		}
	}
	for name, k := range map[string]*keys{"another": kept, "bob's": bob} {
		if err := r.mayCallWith(k); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if isRevoked(r.nextState(node, 0), bob.sshCert.Serial) {
		t.Error("bob's certificate is revoked")
	}
	users := map[string]int{}
	for _, e := range r.recorded(event.UserLogout) {
		users[e.User]++
	}
	if len(users) != 1 || users["alice"] != 3 {
		t.Errorf("logouts are recorded of %v", users)
	}
	if got := column(t, r.database(), `SELECT user_name FROM logins ORDER BY user_name`); !slices.Equal(got, []string{"alice", "bob"}) {
		t.Errorf("the logins of %q stand", got)
	}
}

func TestALogoutNamesABoundedNumberOfLogins(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := r.login("alice")
	wantCode(t, r.logoutWith(k, make([]uint64, maxReplacedSerials+1)...), connect.CodeInvalidArgument)
	if err := r.mayCallWith(k); err != nil {
		t.Errorf("the login has ended: %v", err)
	}
	if err := r.logoutWith(k, make([]uint64, maxReplacedSerials)...); err != nil {
		t.Error(err)
	}
}

// All or nothing: where one of them cannot be recorded, none has ended.
func TestALogoutIsOneAct(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	earlier, k := r.login("alice"), r.login("alice")
	r.execute(`CREATE TRIGGER full BEFORE INSERT ON audit_log WHEN (SELECT count(*) FROM logins) = 0 BEGIN SELECT RAISE(ABORT, 'no'); END`)
	if err := r.logoutWith(k, earlier.sshCert.Serial); err == nil {
		t.Error("it was logged out without a record")
	}
	for _, k := range []*keys{earlier, k} {
		if err := r.mayCallWith(k); err != nil {
			t.Error(err)
		}
	}
}

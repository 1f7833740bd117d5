package login

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
)

// Each attempt is counted before it is looked at, so a right one may begin a
// wait; who comes next must not have to wait for it.
func TestARightPasswordMakesNobodyWait(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		for i := range int(addrRate.free) {
			refused(t, w.check(fmt.Sprintf("user%d", i), wrong, stranger), connect.CodeUnauthenticated, "wrong")
		}
		w.must(w.check("alice", right, stranger))
		refused(t, w.check("another", wrong, stranger), connect.CodeUnauthenticated, "wrong")
		refused(t, w.check("another", wrong, stranger), connect.CodeResourceExhausted, "Try again in 1s") // its own doing
	})
}

// Anybody may send tokens, and a hash takes 64 MiB.
func TestAnInviteThatIsNoneCostsNoHash(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for _, token := range []string{"", "x", strings.Repeat("x", inviteTokenLen), strings.Repeat("x", 100_000)} {
			refused(t, w.accept(NewSecret(token), right), connect.CodeUnauthenticated, "invite is not valid")
		}
		if got := w.hashed(); len(got) > 0 {
			t.Errorf("%d hashes were computed", len(got))
		}
	})
}

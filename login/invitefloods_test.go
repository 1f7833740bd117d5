package login

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/audit/event"
)

func TestGuessesAtInvitesFromManyAddressesDoNotFillTheRecord(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		guess := func(network byte) {
			t.Helper()
			from := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: network, 15: 1})
			_, err := w.AcceptInvite(t.Context(), NewSecret("guess"), right, from)
			refused(t, err, connect.CodeUnauthenticated, "invite is not valid")
		}
		for i := range 2 * maxInviteRecords {
			guess(byte(i))
		}
		told := w.records(event.UserPasswordChange)
		diff(t, maxInviteRecords, len(told))
		if last := told[len(told)-1]; !strings.Contains(last, "without a record") {
			t.Errorf("the last record does not say that others are missing: %s", last)
		}
		w.clock.forward(time.Minute)
		guess(0)
		diff(t, maxInviteRecords+1, len(w.records(event.UserPasswordChange)))
	})
}

package devices

import (
	"context"
	"testing"

	"devicetrust/audit/event"
	"devicetrust/store/storetest"
)

// Replicas share nothing but the store.
func TestOfTwoReplicasOneSpendsAToken(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		one, other := newWorld(t, storetest.OpenAt(t, address)), newWorld(t, storetest.OpenAt(t, address))
		add(t, one, "linux", testTag)
		token, err := one.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		const each = 4
		errs := make(chan error)
		for range each {
			for _, w := range []*world{one, other} {
				go func() {
					_, _, err := w.spendToken(context.WithoutCancel(t.Context()), alice, testAddr, token.Token)
					errs <- err
				}()
			}
		}
		spent := 0
		for range 2 * each {
			if err := <-errs; err == nil {
				spent++
			} else {
				wantRefusal(t, err, "was used")
			}
		}
		if spent != 1 {
			t.Errorf("it was spent %d times", spent)
		}
		records := map[bool]int{}
		for _, e := range one.events(t, event.DeviceTokenSpent) {
			records[e.Success]++
			if (e.Message == "") != e.Success {
				t.Errorf("the record is %+v", e)
			}
		}
		if records[true] != 1 || records[false] != 2*each-1 {
			t.Errorf("on record are %v", records)
		}
	})
}

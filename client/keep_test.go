package client

import (
	"os"
	"testing"

	"devicetrust/client/clienttest"
)

// Whoever is killed between two steps leaves the folder with the old keys.
func TestALoginRemovesWhatOneThatWasKilledLeft(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	p := loggedIn(t, c, h, nil)
	for _, name := range []string{".new-1", ".new-1.old"} {
		if err := os.CopyFS(h.path("keys", name), os.DirFS(h.path("keys", fileName(p.Proxy)))); err != nil {
			t.Fatal(err)
		}
	}
	loggedIn(t, c, h, nil)
	if got := entries(t, h.path("keys")); len(got) != 1 {
		t.Errorf("there is %q", got)
	}
}

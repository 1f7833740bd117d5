package node

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// TestMain lets the tests' sessions start as dtnoded's do.
func TestMain(m *testing.M) {
	if status, was := RunHelper(time.Now); was {
		os.Exit(status)
	}
	if dir := os.Getenv(handedOn); dir != "" {
		os.Exit(serveHandedOn(dir))
	}
	if len(os.Args) == 2 && os.Args[0] == deadShare {
		if err := serveDeadShare(os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 5 && os.Args[0] == nodeOutside {
		serveOutside(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

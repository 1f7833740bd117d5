package login_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"devicetrust/audit"
	"devicetrust/login"
	"devicetrust/resource"
	"devicetrust/store"
)

// An administrator invites somebody, who sets a password and logs in with it.
func ExampleService_CheckPassword() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "login-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an example
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "dt.db"), slog.Default())
	if err != nil {
		panic(err)
	}
	defer db.Close() //nolint:errcheck // an example
	users := login.New(db, audit.Open(db, "example", [32]byte{}, time.Now), time.Now)

	var alice resource.User
	alice.Metadata.Name = "alice"
	alice.Spec.Roles = []string{"access"}
	invite, err := users.CreateInvited(ctx, "os:root", alice, time.Hour)
	if err != nil {
		panic(err)
	}

	home := netip.MustParseAddr("192.0.2.1")
	if _, err := users.AcceptInvite(ctx, invite.Token, login.NewSecret("correct horse"), home); err != nil {
		panic(err)
	}
	_, err = users.CheckPassword(ctx, "alice", login.NewSecret("battery staple"), home)
	fmt.Println(err)
	verified, err := users.CheckPassword(ctx, "alice", login.NewSecret("correct horse"), home)
	fmt.Println(verified.User(), err)
	// Output:
	// the user name or the password is wrong
	// alice <nil>
}

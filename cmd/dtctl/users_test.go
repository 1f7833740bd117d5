package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/cmd/internal/cli"
)

var invitation = &dtv1.Invite{
	User: "bob", Token: "inv1te", Url: "https://dt.example:3080/web/invite#inv1te", Proxy: "dt.example:3080",
	CaPins: []string{"sha256:aa", "sha256:bb"}, Expires: timestamppb.New(now.Add(time.Hour)),
}

func TestAnInvitationCanBeSentAsItIsPrinted(t *testing.T) {
	c := startCluster(t)
	c.answers["AddUser"], c.answers["ResetUser"] = invitation, invitation
	rest := ` and needs a password.
Send this link to its owner, who can choose one until 2026-03-01 14:00:00:
https://dt.example:3080/web/invite#inv1te

Or, on a terminal:
dtsh passwd --invite=inv1te --proxy=dt.example:3080 --ca-pin=sha256:aa --ca-pin=sha256:bb --user=bob
`
	c.prints(t, `User "bob" has been created`+rest, "users", "add", "bob", "--roles=access,editor", "--logins=root,ubuntu", "--ttl=2h")
	c.asked(t, &dtv1.AddUserRequest{Name: "bob", Roles: []string{"access", "editor"}, Logins: []string{"root", "ubuntu"}, Ttl: durationpb.New(2 * time.Hour)})
	c.prints(t, `User "bob" has been reset`+rest, "users", "reset", "bob")
	c.asked(t, &dtv1.ResetUserRequest{Name: "bob"})
	c.prints(t, `{
  "user": "bob",
  "invite_token": "inv1te",
  "invite_url": "https://dt.example:3080/web/invite#inv1te",
  "expires": "2026-03-01T13:00:00Z",
  "proxy": "dt.example:3080",
  "ca_pins": [
    "sha256:aa",
    "sha256:bb"
  ]
}
`, "users", "add", "bob", "--roles=access", "--format=json")
}

func TestAPasswordComesFromTheFirstLineOfStdin(t *testing.T) {
	c := startCluster(t)
	c.answers["AddUser"] = &dtv1.Invite{User: "bob"}
	r := c.runWith(t, &cli.Env{Stdin: strings.NewReader("correct horse\nmore")}, "users", "add", "bob", "--roles=access", "--password-stdin")
	if r.status != 0 || r.out != "User \"bob\" has been created.\n" {
		t.Errorf("%+v", r)
	}
	password := "correct horse"
	c.asked(t, &dtv1.AddUserRequest{Name: "bob", Roles: []string{"access"}, Password: &password})

	if r := c.run(t, "users", "add", "bob", "--roles=access", "--password-stdin"); r.status != 1 {
		t.Errorf("without a password on stdin: %+v", r)
	}
}

func TestPeopleAreListedAndRemoved(t *testing.T) {
	c := startCluster(t)
	c.prints(t, "No users found\n", "users", "ls")
	c.put(t, `{kind: user, version: v2, metadata: {name: alice}, spec: {roles: [access, editor], traits: {logins: [root]}}}`)
	c.prints(t, `User  Roles         Logins
----- ------------- ------
alice access,editor root
`, "users", "ls")
	c.prints(t, "User \"alice\" has been deleted\n", "users", "rm", "alice")
	if r := c.run(t, "users", "rm", "alice"); r.status != 1 || r.errors != "ERROR: user \"alice\" not found\n" {
		t.Errorf("%+v", r)
	}
}

func TestAPrintedCommandSurvivesAShell(t *testing.T) {
	if got, want := commandLine("dtsh", "--user=o'neil; rm", ""), `dtsh '--user=o'\''neil; rm' ''`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/client/clienttest"
	"devicetrust/cmd/internal/cli"
)

// seat is a person's seat at a machine.
type seat struct {
	t   *testing.T
	env map[string]string
	now func() time.Time
	// gone: the person does not wait.
	gone bool
}

func newSeat(t *testing.T) *seat {
	t.Helper()
	dir := t.TempDir()
	return &seat{t: t, now: time.Now, env: map[string]string{
		"DTSH_HOME": filepath.Join(dir, "dtsh"), "DTSH_DMI_DIR": filepath.Join(dir, "dmi"), "DTSH_TPM": filepath.Join(dir, "no-tpm"),
		// It would be the program of the tests.
		"DTSH_AGENT": "off",
	}}
}

type result struct {
	status         int
	stdout, stderr string
}

// runs runs dtsh with the words of line.
func (s *seat) runs(stdin string, words ...string) result {
	s.t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	if s.gone {
		cancel()
	}
	status := cli.Run(ctx, &cli.Env{
		Args: words, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &err,
		Getenv: func(name string) string { return s.env[name] },
		Now:    s.now, Location: time.FixedZone("-03", -3*3600),
	}, newRoot)
	return result{status, out.String(), err.String()}
}

func (s *seat) dtsh(words ...string) result { s.t.Helper(); return s.runs("", words...) }

// login logs alice in.
func (s *seat) login(c *clienttest.Cluster) {
	s.t.Helper()
	got := s.runs("correct horse\n", "login", "--proxy="+c.Proxy, "--user=alice", "--ca-pin="+c.Pin, "--password-stdin")
	if got.status != 0 {
		s.t.Fatalf("login: %+v", got)
	}
}

// want compares a result; patterns are matched against each line.
func want(t *testing.T, got result, status int, stdout, stderr string) {
	t.Helper()
	if got.status != status {
		t.Errorf("status %d, want %d", got.status, status)
	}
	for _, s := range []struct{ name, text, pattern string }{{"stdout", got.stdout, stdout}, {"stderr", got.stderr, stderr}} {
		if s.pattern == "" && s.text != "" || !regexp.MustCompile("(?m)"+s.pattern).MatchString(s.text) {
			t.Errorf("%s is %q, want %q", s.name, s.text, s.pattern)
		}
	}
}

func TestTheHelpIsComplete(t *testing.T) {
	env := &cli.Env{}
	for _, c := range cli.Complaints(newRoot(env)) {
		t.Error(c)
	}
}

func TestALoginPrintsTheBlockThatPeopleKnow(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	got := s.runs("correct horse\n", "login", "--proxy="+c.Proxy, "--user=alice", "--ca-pin="+c.Pin, "--password-stdin")
	block := `> Profile URL:  PROXY
  Logged in as: alice
  Cluster:      example
  Roles:        access, editor
  Logins:       root
  Kubernetes:   disabled
  Valid until:  TIME -0300 -03 [valid for 12h0m0s]
  Extensions:   login-ip, permit-port-forwarding, permit-pty, private-key-policy
  Key:          software (PATH/alice)
`
	text := strings.ReplaceAll(got.stdout, c.Proxy, "PROXY")
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`).ReplaceAllString(text, "TIME")
	text = regexp.MustCompile(`\(/.*/alice\)`).ReplaceAllString(text, "(PATH/alice)")
	if diff := cmp.Diff(block, text); diff != "" {
		t.Error(diff)
	}
	want(t, got, 0, ".", `^Device not authenticated: this device is not enrolled`)
	want(t, got, 0, ".", `dtsh device enroll`)

	again := s.dtsh("status")
	if again.stdout != got.stdout || again.status != 0 || again.stderr != "" {
		t.Errorf("status differs: %+v", again)
	}
	want(t, s.dtsh("status", "--format=json"), 0, `^  "username": "alice",$`, "")
	want(t, s.dtsh("status", "--format=yaml"), 0, `^username: alice$`, "")
}

func TestWhoIsNotLoggedInIsToldSo(t *testing.T) {
	s := newSeat(t)
	want(t, s.dtsh("status"), 1, `^Not logged in\.\n$`, "")
	want(t, s.dtsh("status", "--format=json"), 1, "", `^Not logged in\.\n$`)
	want(t, s.dtsh("ls"), 1, "", `^ERROR: not logged in\nLog in with: dtsh login`)
	want(t, s.dtsh("config"), 1, "", `^ERROR: not logged in`)
	want(t, s.dtsh("passwd"), 1, "", `^ERROR: not logged in`)
	want(t, s.dtsh("device", "enroll", "--current-device"), 1, "", `^ERROR: not logged in`)
	want(t, s.dtsh("ssh", "root@web-1"), 255, "", `^ERROR: not logged in`)
	want(t, s.dtsh("logout"), 0, `^All users logged out\.\n$`, "")
}

func TestAnExpiredLoginIsShownAsSuch(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	s.now = func() time.Time { return time.Now().Add(13 * time.Hour) }
	want(t, s.dtsh("status"), 1, `Valid until: .*\[EXPIRED\]$`, `^ERROR: the login of alice expired at .*\nLog in again`)
	want(t, s.dtsh("ls"), 1, "", `^ERROR: the login of alice expired at .*\nLog in again`)
}

func TestLogoutSaysWhatItCouldNotDo(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	c.Stop()
	want(t, s.dtsh("logout"), 0, `^All users logged out\.\n$`, `^WARNING: .*`+regexp.QuoteMeta(c.Proxy))
	want(t, s.dtsh("status"), 1, `^Not logged in\.`, "")
}

func TestTheGlobalFlagsHoldEverywhere(t *testing.T) {
	c, other, s := clienttest.Start(t), clienttest.Start(t), newSeat(t)
	s.login(c)
	want(t, s.dtsh("ls", "--user=alice", "--ca-pin="+c.Pin), 0, "Node Name", "")
	for _, command := range []string{"ls", "ssh root@web-1 true", "status", "config", "device enroll --current-device"} {
		words := append(strings.Fields(command), "--user=bob")
		if command == "ssh root@web-1 true" {
			words = []string{"ssh", "--user=bob", "root@web-1", "true"}
		}
		if got := s.dtsh(words...); got.status == 0 || !strings.Contains(got.stderr, "the login is of alice, and not of bob\nLog in with: dtsh login --user=bob\n") {
			t.Errorf("%q: %+v", command, got)
		}
	}
	want(t, s.dtsh("ls", "--ca-pin="+other.Pin), 1, "", `^ERROR: cannot trust .*want CA pin`)
	want(t, s.dtsh("ls", "--ca-file=/nonexistent"), 1, "", `^ERROR: cannot read the CA file`)
}

func TestAWrongCommandLineIsStatus2(t *testing.T) {
	s := newSeat(t)
	for _, line := range []string{
		"", "lgoin", "login --bogus", "login extra", "login --ca-pin=md5:00", "login --proxy=a/b", "login --ttl=0", "login --ttl=abc",
		"login --password-stdin", "ls env", "ssh", "ssh Root@web-1", "ssh @web-1", "ssh root@", "ssh -L 1:a root@web-1", "ssh -N root@web-1 true",
		"ssh -p 0x root@web-1", "device", "device enroll", "device enroll --token=x --current-device", "device bogus", "scp a b", "mfa ls",
		"status --format=xml",
	} {
		got := s.dtsh(strings.Fields(line)...)
		if got.status != 2 || got.stdout != "" {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestWhatIsNotInThisVersionSaysSo(t *testing.T) {
	s := newSeat(t)
	for line, name := range map[string]string{
		"mfa ls": "dtsh mfa", "login --otp=123456": "dtsh login --otp",
	} {
		want(t, s.dtsh(strings.Fields(line)...), 2, "", `^ERROR: `+name+` is not in this version\n`)
	}
}

func TestAPasswordIsReadAsItIsWritten(t *testing.T) {
	for in, status := range map[string]int{
		"correct horse\n": 0, "correct horse\r\n": 0, "correct horse": 0, "correct horse\nrest": 0,
		"correct horse \n": 1, "\n": 1, "": 1, strings.Repeat("x", 2000) + "\n": 1, strings.Repeat("x", 1<<20): 1,
	} {
		c, s := clienttest.Start(t), newSeat(t)
		got := s.runs(in, "login", "--proxy="+c.Proxy, "--user=alice", "--ca-pin="+c.Pin, "--password-stdin")
		if got.status != status {
			t.Errorf("%.20q: %+v", in, got)
		}
		if status == 1 && (!strings.HasPrefix(got.stderr, "ERROR: ") || len(in) > 1000 && strings.Contains(got.stderr, "wrong")) {
			t.Errorf("%.20q: %q", in, got.stderr)
		}
	}
}

func TestWithoutATerminalNothingIsAsked(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	want(t, s.dtsh("login", "--proxy="+c.Proxy, "--user=alice", "--ca-pin="+c.Pin), 1, "", `^ERROR: cannot ask for a password.*\n.*--password-stdin`)
}

func TestTheClusterIsNamedByFlagOrEnvironmentOrTheLastLogin(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.env["DTSH_PROXY"], s.env["DTSH_USER"] = c.Proxy, "alice"
	want(t, s.runs("correct horse\n", "login", "--ca-file="+c.CAFile, "--password-stdin"), 0, "Logged in as: alice", "not enrolled")
	s.env["DTSH_PROXY"], s.env["DTSH_USER"] = "", ""
	want(t, s.runs("correct horse\n", "login", "--password-stdin"), 0, "Logged in as: alice", "not enrolled")
	want(t, s.dtsh("status", "--proxy=elsewhere"), 1, "Not logged in", "")
	want(t, s.dtsh("logout"), 0, "logged out", "")
	want(t, s.runs("correct horse\n", "login", "--user=alice", "--password-stdin"), 0, "Logged in as: alice", "not enrolled")
}

func TestServersAreListed(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	want(t, s.dtsh("ls", "--format=json"), 0, `^\[\]\n$`, "")
	c.List(t, "web-1", "10.0.0.1:3022", map[string]string{"role": "web", "env": "prod\x1b[2J"})
	table := `Node Name Address       Labels
--------- ------------- -----------------------------
web-1     10.0.0.1:3022 env=prod\u001b[2J,role=web
`
	got := s.dtsh("ls", "role=web")
	if want := regexp.MustCompile("-{20,}").ReplaceAllString(table, "DASHES"); regexp.MustCompile("-{20,}").ReplaceAllString(got.stdout, "DASHES") != want {
		t.Errorf("got\n%s", got.stdout)
	}
	want(t, s.dtsh("ls", "--format=json"), 0, `"hostname": "web-1"`, "")
	want(t, s.dtsh("ls", "--format=yaml"), 0, `hostname: web-1`, "")
}

func TestTheStatusOfSSHIsTheCommands(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	for _, tt := range []struct {
		words          []string
		status         int
		stdout, stderr string
	}{
		{[]string{"ssh", "root@web-1", "exit", "7"}, 7, "", ""},
		{[]string{"ssh", "root@web-1", "echo", "a  b"}, 0, `^a  b\n$`, ""},
		{[]string{"ssh", "-l", "root", "web-1", "echo", "-l", "--format=x", "--"}, 0, `^-l --format=x --\n$`, ""},
		{[]string{"ssh", "root@web-1", "--", "echo", "x"}, 0, `^x\n$`, ""},
		{[]string{"ssh", "--", "root@web-1", "echo", "x"}, 0, `^x\n$`, ""},
		{[]string{"ssh", "root@" + node.Addr, "echo", "x"}, 0, `^x\n$`, ""},
		{[]string{"ssh", "-t", "root@web-1", "pty"}, 0, `^xterm 80x24`, ""},
		{[]string{"ssh", "root@web-1", "pty"}, 0, `^none`, ""},
		{[]string{"ssh", "root@no-such-server", "true"}, 255, "", `^ERROR: no node "no-such-server" is known to you\nList the nodes with: dtsh ls\n$`},
		{[]string{"ssh", "root@web-1", "drop"}, 255, "", `^ERROR: `},
	} {
		s.env["TERM"] = "xterm"
		want(t, s.dtsh(tt.words...), tt.status, tt.stdout, tt.stderr)
	}
	want(t, s.runs("exit 3\n", "ssh", "root@web-1"), 3, "^ready", "")
}

func TestADenialReadsAsPeopleKnowIt(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	node.Refuse = "access to resource requires a trusted device"
	port := node.Addr[strings.LastIndex(node.Addr, ":"):]
	got := s.dtsh("ssh", "root@web-1")
	lines := strings.Split(got.stderr, "\n")
	if got.status != 255 || got.stdout != "" || len(lines) != 3 ||
		lines[0] != "ERROR: access denied to root connecting to web-1"+port+": access to resource requires a trusted device" ||
		!strings.Contains(lines[1], "dtsh device enroll") {
		t.Errorf("%+v", got)
	}
}

func TestConfigIsForTheNodesThatAreThere(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	c.List(t, "web-1", "10.0.0.1:3022", nil)
	c.List(t, "a\nb", "10.0.0.1:3022", nil)
	want(t, s.dtsh("config"), 0, `^Host web-1 web-1\.example$`, `^WARNING: node "a\\\\?nb" has a name`)
}

func TestAnInviteSetsThePasswordAndIsBelievedAfterwards(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	want(t, s.runs("new password\n", "passwd", "--invite=wrong", "--proxy="+c.Proxy, "--ca-pin="+c.Pin, "--password-stdin"), 1, "", `^ERROR: the invite`)
	want(t, s.runs("new password\n", "passwd", "--invite="+clienttest.Invite, "--proxy="+c.Proxy, "--password-stdin"), 1, "", `^ERROR: cannot trust .*\n.*--ca-pin`)
	got := s.runs("new password\n", "passwd", "--invite="+clienttest.Invite, "--proxy="+c.Proxy, "--ca-pin="+c.Pin, "--password-stdin")
	want(t, got, 0, `^Password of invited set\.\n$`, `^Log in with: dtsh login --proxy=.* --user=invited`)
	want(t, s.dtsh("status"), 1, "Not logged in", "")
	want(t, s.runs("new password\n", "login", "--user=invited", "--password-stdin"), 0, "Logged in as: invited", "not enrolled")
}

func TestAPasswordIsChanged(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	want(t, s.runs("wrong\nnew password\n", "passwd", "--password-stdin"), 1, "", `^ERROR: wrong password`)
	want(t, s.runs("correct horse\n", "passwd", "--password-stdin"), 1, "", `^ERROR: nothing came`)
	want(t, s.runs("correct horse\nnew password\n", "passwd", "--password-stdin"), 0, `^Password of alice changed\.\n$`, "")
	want(t, s.runs("new password\n", "login", "--password-stdin"), 0, "Logged in as: alice", "not enrolled")
}

func TestADeviceSaysWhatItIs(t *testing.T) {
	s := newSeat(t)
	want(t, s.dtsh("device", "asset-tag"), 1, "", `^ERROR: this machine has no usable serial number or asset tag: Failed to open the TPM`)
	if err := os.MkdirAll(s.env["DTSH_DMI_DIR"], 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.env["DTSH_DMI_DIR"], "product_serial"), []byte("C00AA0AAAA0A\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, s.dtsh("device", "asset-tag"), 0, `^C00AA0AAAA0A\n$`, "")
	want(t, s.dtsh("device", "collect"), 0, `^asset_tag: C00AA0AAAA0A$`, "")
	want(t, s.dtsh("device", "collect", "--format=json"), 0, `^  "system_serial_number": "C00AA0AAAA0A",$`, "")
	// Nothing of it needs a login, nor a home.
	s.env["DTSH_HOME"] = ""
	want(t, s.dtsh("device", "asset-tag"), 0, `^C00AA0AAAA0A\n$`, "")
}

func TestEnrollingNeedsATPM(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	want(t, s.dtsh("device", "enroll", "--token=x"), 1, "", `^ERROR: Failed to open the TPM device .*\n.+\n$`)
}

func TestARefusalOfTheServersIsShownWithItsRemedy(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	c.ErrLogin = api.Refuse(connect.CodeResourceExhausted, "too many attempts\x1b[2J").WithHint("Wait a minute.")
	got := s.runs("x\n", "login", "--proxy="+c.Proxy, "--user=alice", "--ca-pin="+c.Pin, "--password-stdin")
	want(t, got, 1, "", `^ERROR: too many attempts\\u001b\[2J\nWait a minute\.\n$`)
}

func TestABadNameIsRefusedBeforeAPasswordIsAskedFor(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	for _, name := range []string{"a b", "known_hosts"} {
		want(t, s.dtsh("login", "--proxy="+c.Proxy, "--user="+name, "--ca-pin="+c.Pin, "--password-stdin"), 1, "", `^ERROR: cannot log in: .*`+name)
	}
}

func TestABadAccountIsToldInWords(t *testing.T) {
	s := newSeat(t)
	for target, text := range map[string]string{"@web-1": `^ERROR: no account on the server is named`, "Root@web-1": `^ERROR: "Root" is no account`} {
		got := s.dtsh("ssh", target)
		want(t, got, 2, "", text)
		if strings.Contains(got.stderr, "[a-z") {
			t.Errorf("%s: a pattern is shown: %q", target, got.stderr)
		}
	}
}

func TestTheHelpOfSSHNamesItsFlagsOnce(t *testing.T) {
	got := newSeat(t).dtsh("ssh", "--help")
	if n := strings.Count(strings.ToLower(got.stdout), "[flags]"); n != 1 {
		t.Errorf("%d times in %q", n, got.stdout)
	}
}

func TestTheDiagnosisOfADeviceNeedsNoLogin(t *testing.T) {
	s := newSeat(t)
	want(t, s.dtsh("device", "status"), 1, `^FAIL login: not logged in\n     Log in with: dtsh login`, "")
	want(t, s.dtsh("device", "status", "--format=json"), 1, `^    "state": "fault",$`, "")
	s.login(clienttest.Start(t))
	want(t, s.dtsh("device", "status"), 1, `^ok   login: logged in to .* as alice$`, "")
}

func TestWhatIsNoTruthValueTurnsAutoEnrollmentOff(t *testing.T) {
	for value, want := range map[string]bool{"": false, "0": false, "false": false, "1": true, "true": true, "T": true, "yes": true, "off": true} {
		a := &app{Env: &cli.Env{Getenv: func(name string) string {
			if name == "DTSH_DEVICE_AUTO_ENROLL_DISABLED" {
				return value
			}
			return ""
		}}}
		if got := a.autoEnrollDisabled(); got != want {
			t.Errorf("%q: disabled is %v", value, got)
		}
	}
}

func TestTheConfigurationIsInstalledOnceAndFollowsTheLogin(t *testing.T) {
	c := clienttest.Start(t)
	s := newSeat(t)
	file := filepath.Join(t.TempDir(), "ssh", "config")
	want(t, s.dtsh("config", "--ssh-config="+file), 2, "", "--ssh-config=FILE is for --write and --remove")
	want(t, s.dtsh("config", "--write", "--ssh-config="+file), 1, "", "not logged in")
	s.login(c)
	want(t, s.dtsh("config", "--write", "--remove", "--ssh-config="+file), 2, "", "ERROR: flags that exclude each other: --remove, --write")
	want(t, s.dtsh("config", "--write", "--ssh-config="+file), 0, "config now includes what ssh needs for 0 servers of example", "")
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want(t, s.dtsh("config", "--write", "--ssh-config="+file), 0, "config includes what ssh needs for 0 servers of example", "")
	if second, err := os.ReadFile(file); err != nil || !bytes.Equal(first, second) {
		t.Errorf("%v: it was %q and is %q", err, first, second)
	}
	c.StartNode(t, "web-1", clienttest.HostCert{})
	included := func() string {
		found, err := filepath.Glob(filepath.Join(s.env["DTSH_HOME"], "profiles", "*.ssh_config"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%v, %v", found, err)
		}
		text, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if strings.Contains(included(), "Host web-1") {
		t.Error("it is there before anybody looked")
	}
	s.login(c)
	if !strings.Contains(included(), "Host web-1") {
		t.Errorf("a new login did not write it again: %q", included())
	}
	s.dtsh("logout")
	want(t, s.dtsh("config", "--remove", "--ssh-config="+file), 0, "config no longer includes the servers of", "")
	want(t, s.dtsh("config", "--remove", "--ssh-config="+file), 0, "config includes nothing of", "")
	if _, err := os.Lstat(file); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	s.login(c)
	if found, _ := filepath.Glob(filepath.Join(s.env["DTSH_HOME"], "profiles", "*.ssh_config")); len(found) != 0 {
		t.Errorf("a login wrote %v, which nobody asked for", found)
	}
}

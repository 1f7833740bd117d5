package node

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// testLoginFiles are of a machine where nobody has logged in yet.
func testLoginFiles(t *testing.T) loginFiles {
	t.Helper()
	dir := t.TempDir()
	at := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return loginFiles{
		motd:    []string{filepath.Join(dir, "no-such"), at("motd", "Be careful.\nThank you.\n")},
		lastlog: at("lastlog", ""), utmp: at("utmp", ""), wtmp: at("wtmp", ""), layout: layoutOf(runtime.GOARCH),
	}
}

// tells runs one of the system's programs and gives what it says.
func tells(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	return string(out)
}

func TestLoginsAreAsTheSystemsProgramsReadThem(t *testing.T) {
	files := testLoginFiles(t)
	if files.layout == 0 {
		t.Skip("the layout of this system's records is not known")
	}
	all := &logins{files: files}
	begin := time.Date(2026, 3, 1, 10, 20, 30, 123456000, time.UTC)
	alice := utmpEntry{pid: 4711, line: "pts/12", user: "alice", from: netip.MustParseAddr("192.0.2.7"), time: begin}
	bob := utmpEntry{pid: 4712, line: "pts/2", user: "bob", from: netip.MustParseAddr("2001:db8::17"), time: begin.Add(time.Minute)}
	for _, e := range []utmpEntry{alice, bob} {
		if err := all.log(e); err != nil {
			t.Fatal(err)
		}
	}
	who := tells(t, "who", files.utmp)
	for _, want := range []string{`(?m)^alice +pts/12 .*10:20 \(192.0.2.7\)$`, `(?m)^bob +pts/2 .*10:21 \(2001:db8::17\)$`} {
		if !regexp.MustCompile(want).MatchString(who) {
			t.Errorf("who does not say %s:\n%s", want, who)
		}
	}

	// Another login on the terminal: the end of the first is not its own.
	second := alice
	second.pid, second.user, second.time = 4713, "carol", begin.Add(2*time.Minute)
	if err := all.log(second); err != nil {
		t.Fatal(err)
	}
	alice.over, alice.time = true, begin.Add(3*time.Minute)
	bob.over, bob.time = true, begin.Add(31*time.Minute)
	for _, e := range []utmpEntry{alice, bob} {
		if err := all.log(e); err != nil {
			t.Fatal(err)
		}
	}
	if who := tells(t, "who", files.utmp); strings.Count(who, "\n") != 1 || !strings.HasPrefix(who, "carol ") {
		t.Errorf("who says\n%s", who)
	}
	last := tells(t, "last", "-i", "-f", files.wtmp)
	if !regexp.MustCompile(`(?m)^bob +pts/2 +2001:db8::17 .*10:21 - 10:51  \(00:30\)$`).MatchString(last) {
		t.Errorf("last says\n%s", last)
	}
	if info, err := os.Stat(files.utmp); err != nil || info.Size() != int64(2*files.layout.utmpSize()) {
		t.Errorf("two terminals: %v, %v", info.Size(), err)
	}
}

func TestTheLastLoginIsAsTheSystemsProgramReadsIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("lastlog(8) reads another root's files for root only")
	}
	root := t.TempDir()
	for _, dir := range []string{"etc", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := testLoginFiles(t)
	files.lastlog = filepath.Join(root, "var/log/lastlog")
	for name, text := range map[string]string{
		files.lastlog: "", filepath.Join(root, "etc/passwd"): "x:x:0:0::/:/bin/sh\nalice:x:7:7::/:/bin/sh\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	now := lastLogin{time.Date(2026, 3, 1, 10, 20, 30, 0, time.UTC), "pts/3", "192.0.2.7"}
	if before, err := files.logLast(7, now); err != nil || !before.time.IsZero() {
		t.Errorf("%+v, %v", before, err)
	}
	if got := tells(t, "lastlog", "-R", root, "-u", "7"); !regexp.MustCompile(`alice +pts/3 +192.0.2.7 +Sun Mar +1 10:20:30 \+0000 2026`).MatchString(got) {
		t.Errorf("lastlog says\n%s", got)
	}
	before, err := files.logLast(7, lastLogin{now.time.Add(time.Hour), "pts/4", "192.0.2.8"})
	if err != nil || before.line != "pts/3" || before.greeting(time.UTC) != "Last login: Sun Mar  1 10:20:30 2026 from 192.0.2.7\r\n" {
		t.Errorf("%+v, %v", before, err)
	}
	// The others have none.
	if before, err := files.logLast(6, now); err != nil || before.greeting(time.UTC) != "" {
		t.Errorf("%+v, %v", before, err)
	}
}

func TestRecordsAreAsLongAsTheCLibraryHasThem(t *testing.T) {
	e := utmpEntry{pid: 1, line: "pts/1", user: "u", from: netip.MustParseAddr("::1"), time: time.Unix(1, 0)}
	for arch, want := range map[string][2]int{"amd64": {384, 292}, "arm64": {400, 296}} {
		l := layoutOf(arch)
		if got := [2]int{len(l.utmp(e)), len(l.lastlog(lastLogin{time: time.Unix(1, 0)}))}; got != want {
			t.Errorf("%s: %v, want %v", arch, got, want)
		}
		last := lastLogin{time.Unix(5e8, 0), "pts/1", strings.Repeat("h", utHostSize)}
		if got := l.parseLastlog(l.lastlog(last)); got != last {
			t.Errorf("%s: %+v", arch, got)
		}
	}
	if layoutOf("riscv64") != 0 {
		t.Error("a layout is guessed")
	}
}

func TestFilesOfLoginsThatAreNoFilesHoldUpNobody(t *testing.T) {
	files := testLoginFiles(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, maxMOTD+1), 0o644); err != nil {
		t.Fatal(err)
	}
	good := files.motd
	for _, bad := range []string{fifo, large} {
		files.motd = append([]string{bad}, good...)
		if text, err := files.messageOfTheDay(); err == nil || text != "Be careful.\r\nThank you.\r\n" {
			t.Errorf("%q, %v", text, err)
		}
	}
	files.utmp, files.lastlog = fifo, fifo
	l := &logins{files: files}
	if err := l.log(utmpEntry{line: "pts/1", from: netip.IPv6Loopback()}); err == nil {
		t.Error("a FIFO is utmp")
	}
	if info, err := os.Stat(files.wtmp); err != nil || info.Size() == 0 {
		t.Errorf("and wtmp is not written: %v", err)
	}
	if _, err := files.logLast(1, lastLogin{time: time.Unix(1, 0)}); err == nil {
		t.Error("a FIFO is lastlog")
	}
	files.utmp, files.wtmp, files.lastlog = "", "/no/such", "/no/such"
	l = &logins{files: files}
	if err := l.log(utmpEntry{line: "pts/1", from: netip.IPv6Loopback()}); err != nil {
		t.Error(err)
	}
	if _, err := files.logLast(1, lastLogin{time: time.Unix(1, 0)}); err != nil {
		t.Error(err)
	}
}

func TestWhoHoldsTheLockOfLoginsHoldsUpNobodyForLong(t *testing.T) {
	files := testLoginFiles(t)
	f, err := os.Open(files.wtmp) // to read is enough
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
	l := &logins{files: files}
	begin := time.Now()
	if err := l.log(utmpEntry{line: "pts/1", from: netip.IPv6Loopback()}); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// atTerminal starts a shell on a terminal and gives what it shows up to and
// with END2.
func atTerminal(t *testing.T, c *gossh.Client, line string) string {
	t.Helper()
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{gossh.ECHO: 0}); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	var out syncBuffer
	s.Stdout = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(in, "%s; echo END$((1+1))\n", line)
	eventually(t, "the shell's answer", func() bool { return strings.Contains(out.String(), "END2") })
	io.WriteString(in, "exit\n")
	_ = wait(t, s)
	return out.String()
}

func TestAShellOnATerminalGreetsAndIsOnRecord(t *testing.T) {
	files := testLoginFiles(t)
	home := t.TempDir()
	for dir := home; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	n := startNode(t, func(c *serverConfig) {
		passwd, group := testPasswd()
		passwd = strings.Replace(passwd, tester+":x:", "at-home:x:", 1)
		passwd = strings.Replace(passwd, "::/:/bin/sh\nhomeless", "::"+home+":/bin/sh\nhomeless", 1)
		c.accounts = testAccounts(t, passwd, group, "")
		c.loginFiles, c.login = files, loginSettings{printMOTD: true, printLastLog: true}
	})
	id := alice()
	id.Logins = []string{"at-home"}
	id.Traits = map[string][]string{"logins": id.Logins}
	c := n.mustDial("at-home", n.cluster.certify(t, id, newSigner(t)))

	first := atTerminal(t, c, "who "+files.utmp)
	if !strings.HasPrefix(first, "Be careful.\r\nThank you.\r\n") || !regexp.MustCompile(`at-home +pts/`).MatchString(first) {
		t.Errorf("%q", first)
	}
	eventually(t, "the end is on record", func() bool {
		return tells(t, "who", files.utmp) == "" && !strings.Contains(tells(t, "last", "-f", files.wtmp), "still")
	})
	second := atTerminal(t, c, "true")
	if !regexp.MustCompile(`^Last login: .* from 127.0.0.1\r\nBe careful`).MatchString(second) {
		t.Errorf("%q", second)
	}
	// A FIFO, which nobody is to open.
	if err := unix.Mkfifo(filepath.Join(home, ".hushlogin"), 0o666); err != nil {
		t.Fatal(err)
	}
	if hushed := atTerminal(t, c, "true"); strings.Contains(hushed, "careful") || strings.Contains(hushed, "Last login") {
		t.Errorf("%q", hushed)
	}
	// A command is told nothing, on a terminal or not.
	if err := os.Remove(filepath.Join(home, ".hushlogin")); err != nil {
		t.Fatal(err)
	}
	if out, errs, _ := run(t, c, "echo only"); out != "only\n" || errs != "" {
		t.Errorf("%q %q", out, errs)
	}
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Output("echo only"); err != nil || string(out) != "only\r\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// The kernel gives a terminal to the next at once.
func TestALoginEndsBeforeItsTerminalIsFree(t *testing.T) {
	term, err := openTerminal(ptyRequest{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{}
	if _, err := p.connect(term); err != nil {
		t.Fatal(err)
	}
	told := false
	p.logOut = func() {
		told = true
		if _, err := p.tty.Stat(); err != nil {
			t.Errorf("the terminal is closed: %v", err)
		}
	}
	p.close()
	if !told {
		t.Error("the end is not told")
	}
	if _, err := p.tty.Stat(); err == nil {
		t.Error("the terminal is open")
	}
}

func TestGreetingsCanBeSettled(t *testing.T) {
	no := false
	for _, config := range []SSHConfig{{}, {PrintMOTD: &no}, {PrintLastLog: &no}, {PrintMOTD: &no, PrintLastLog: &no}} {
		settings, err := config.login()
		if err != nil {
			t.Fatal(err)
		}
		n := startNode(t, func(c *serverConfig) { c.login, c.loginFiles = settings, testLoginFiles(t) })
		c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
		atTerminal(t, c, "true")
		shown := atTerminal(t, c, "true")
		if got := strings.Contains(shown, "careful"); got != (config.PrintMOTD == nil) {
			t.Errorf("message of the day: %t", got)
		}
		if got := strings.Contains(shown, "Last login"); got != (config.PrintLastLog == nil) {
			t.Errorf("last login: %t", got)
		}
	}
}

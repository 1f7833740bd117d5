package node

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/node/helper"
)

// deadShare names the process that is a file server that does not answer. It
// is one of its own: what it stops is ours if the guard is gone.
const deadShare = "node test: dead share"

// serveDeadShare mounts a FUSE file system on dir, answers nothing but the
// greeting, and says what comes. It ends, and the waiting of others with it,
// when it is told to or nobody does for a while.
func serveDeadShare(dir string) error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=65534,group_id=65534", fd)
	if err := unix.Mount("dead", dir, "fuse", 0, options); err != nil {
		return err
	}
	request := make([]byte, 1<<17)
	if _, err := unix.Read(fd, request); err != nil {
		return err
	}
	// fuse_out_header, and a fuse_init_out of protocol 7.31 (linux/fuse.h).
	answer := make([]byte, 16+64)
	binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
	copy(answer[8:16], request[8:16])
	binary.NativeEndian.PutUint32(answer[16:], 7)
	binary.NativeEndian.PutUint32(answer[20:], 31)
	binary.NativeEndian.PutUint32(answer[36:], 4096)
	if _, err := unix.Write(fd, answer); err != nil {
		return err
	}
	fmt.Println("mounted")
	told := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(told) }()
	go func() {
		if _, err := unix.Read(fd, request); err == nil {
			fmt.Println("asked")
		}
	}()
	select {
	case <-told:
	case <-time.After(15 * time.Second): // who should tell is stopped
		fmt.Println("gave up")
	}
	return unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE)
}

func TestAHomeThatDoesNotAnswerStopsNobodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("needs FUSE: %v", err)
	} else {
		f.Close()
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	share := exec.Command("/proc/self/exe")
	share.Args = []string{deadShare, dir}
	share.Stderr = os.Stderr
	tell, _ := share.StdinPipe()
	out, _ := share.StdoutPipe()
	if err := share.Start(); err != nil {
		t.Fatal(err)
	}
	defer share.Wait()
	defer tell.Close()
	says := bufio.NewScanner(out)
	if !says.Scan() || says.Text() != "mounted" {
		t.Fatalf("it says %q", says.Text())
	}

	n := startNode(t, func(c *serverConfig) {
		passwd, group := testPasswd()
		c.accounts = testAccounts(t, passwd+"far:x:65534:65534::"+dir+":/bin/sh\n", group, "")
		c.limits.start = time.Second
	})
	id := alice()
	id.Logins = []string{"far", tester}
	id.Traits = map[string][]string{"logins": id.Logins}
	signer := n.cluster.certify(t, id, newSigner(t))
	far := newSession(t, n.mustDial("far", signer))
	other := n.mustDial(tester, signer)
	var errs syncBuffer
	far.Stderr = &errs
	if err := far.Start("true"); err != nil {
		t.Fatal(err)
	}
	if !says.Scan() || says.Text() != "asked" {
		t.Fatalf("it says %q", says.Text())
	}
	runtime.GC() // which stops all threads, and waits until they are
	if out, _, status := run(t, other, "echo here"); out != "here\n" || status != 0 {
		t.Errorf("another's session: %q, %d", out, status)
	}
	// What hangs has no part of the nursery's socket: that it is gone is noticed.
	gone := n.nurseryNow()
	unix.Kill(gone.pid, unix.SIGKILL)
	<-gone.ended
	if err := gone.send([]byte("ignored"), [3]*os.File{os.Stderr, os.Stderr, os.Stderr}, 2); err == nil {
		t.Error("the socket of a nursery that is gone takes requests")
	}
	if out, _, status := run(t, other, "echo here"); out != "here\n" || status != 0 {
		t.Errorf("another's session, by another nursery: %q, %d", out, status)
	}
	if err := wait(t, far); err == nil {
		t.Error("it runs")
	}
	eventually(t, "the reason is told", func() bool { return strings.Contains(errs.String(), "did not begin within 1s") })
	tell.Close()
	if says.Scan() {
		t.Errorf("it says %q before it is told to end: everything waited for it", says.Text())
	}
}

// nurseryNow is the nursery as it is.
func (n *testNode) nurseryNow() *nursery {
	n.t.Helper()
	now, err := n.helpers.take()
	if err != nil {
		n.t.Fatal(err)
	}
	return now
}

// offspring are the children of this process, zombies too.
func offspring(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var pids []string
	for _, f := range files {
		text, _ := os.ReadFile(f) // the thread may have ended
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}

// bornSince are the children that were not there before; what other tests
// left is not ours.
func bornSince(t *testing.T, before []string) []string {
	t.Helper()
	return slices.DeleteFunc(offspring(t), func(pid string) bool { return slices.Contains(before, pid) })
}

func TestASessionIsForkedFromTheNurseryAndIsOurChild(t *testing.T) {
	n, c := enterNode(t)
	before := n.nurseryNow()
	out, _, _ := run(t, c, "echo $PPID; ps -o args= -p $$ | head -c 60; echo; ls /proc/$$/fd")
	if want := fmt.Sprintf("%d\n", os.Getpid()); !strings.HasPrefix(out, want) || strings.Contains(out, "dtnoded") {
		t.Errorf("%q, want %q", out, want)
	}
	if !strings.HasSuffix(out, "\n0\n1\n2\n") {
		t.Errorf("%q: files that are not the session's", out)
	}
	if n.nurseryNow() != before {
		t.Error("there is another one")
	}
}

func TestANurseryThatDiedIsReplaced(t *testing.T) {
	n, c := enterNode(t)
	for range 3 {
		before := n.nurseryNow()
		unix.Kill(before.pid, unix.SIGKILL) // not waited for: it may be dying as it is asked
		if out, _, status := run(t, c, "echo here"); out != "here\n" || status != 0 {
			t.Fatalf("%q, %d", out, status)
		}
		eventually(t, "it is gone, and no zombie", func() bool { return unix.Kill(before.pid, 0) != nil })
	}
}

func TestSessionsGoOnWithoutTheNursery(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.Start("echo begun; cat"); err != nil {
		t.Fatal(err)
	}
	says := bufio.NewScanner(out)
	says.Scan()
	unix.Kill(n.nurseryNow().pid, unix.SIGKILL)
	fmt.Fprintln(in, "still")
	in.Close()
	if says.Scan(); says.Text() != "still" {
		t.Errorf("%q", says.Text())
	}
	if err := wait(t, s); err != nil {
		t.Error(err)
	}
}

func TestAStoppedNurseryIsGivenUpAndWhatItStillForksIsEnded(t *testing.T) {
	n, c := enterNode(t, func(c *serverConfig) { c.limits.start = 300 * time.Millisecond })
	nursery, before := n.nurseryNow(), offspring(t)
	unix.Kill(nursery.pid, unix.SIGSTOP)
	s := newSession(t, c)
	var errs syncBuffer
	s.Stderr = &errs
	go s.Run("sleep 1000") // it is answered when it is given up
	eventually(t, "the reason is told", func() bool { return strings.Contains(errs.String(), "did not begin") })
	unix.Kill(nursery.pid, unix.SIGCONT)
	eventually(t, "nobody else is left", func() bool { return len(bornSince(t, before)) == 0 })
	if out, _, status := run(t, c, "echo here"); out != "here\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
}

func TestPolicyEndsWhatIsStillStarting(t *testing.T) {
	n, c := enterNode(t)
	nursery, before := n.nurseryNow(), offspring(t)
	unix.Kill(nursery.pid, unix.SIGSTOP)
	s := newSession(t, c)
	go s.Start("true") // it is not answered
	eventually(t, "it is starting", func() bool { return n.sessions() == 1 })
	n.decideBy(access(t, requireDevice))
	eventually(t, "nobody is left", n.empty)
	unix.Kill(nursery.pid, unix.SIGCONT)
	eventually(t, "nothing is left", func() bool { return len(bornSince(t, before)) == 0 })
}

func TestTheNurseryEndsWithTheNode(t *testing.T) {
	n := startNode(t)
	nursery := n.nurseryNow()
	n.stop()
	eventually(t, "it is gone, and no zombie", func() bool { return unix.Kill(nursery.pid, 0) != nil })
	if _, _, err := n.helpers.begin(t.Context(), command{account: account{shell: "/bin/sh"}, become: true, task: task{kind: loginShell}}.request(), [3]*os.File{}); err == nil {
		t.Error("and there is one more")
	}
	// As when the node is killed: nothing but the socket says so.
	alone, err := startNursery()
	if err != nil {
		t.Fatal(err)
	}
	alone.conn.Close()
	if status, err := alone.bury(); err != nil || status.ExitStatus() != 0 || status.Signaled() {
		t.Errorf("%v, %v", status, err)
	}
}

func TestANurseryThatIsToldNonsenseEnds(t *testing.T) {
	good, err := command{account: account{shell: "/bin/true"}, task: task{kind: loginShell}}.request().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, nonsense := range map[string]struct {
		bytes string
		files []int
	}{
		"too much":             {"\xff\xff\xff\xff", []int{0, 0, 0, 0}},
		"more than it says":    {string(good) + "x", []int{0, 0, 0, 0}},
		"less than a length":   {"\x00", []int{0, 0, 0, 0}},
		"without files":        {string(good), nil},
		"with a file too few":  {string(good), []int{0, 0, 0}},
		"with a file too many": {string(good), []int{0, 0, 0, 0, 0}},
		"with many files more": {string(good), make([]int, 100)},
	} {
		alone, err := startNursery()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := alone.conn.WriteMsgUnix([]byte(nonsense.bytes), unix.UnixRights(nonsense.files...), nil); err != nil {
			t.Fatal(err)
		}
		alone.conn.CloseWrite()
		if status, err := alone.bury(); err != nil || status.ExitStatus() != 255 {
			t.Errorf("%s: %v, %v", name, status.ExitStatus(), err)
		}
	}
}

func TestAHelperThatStaysThisProgramBecomesTheAccountAsAWhole(t *testing.T) {
	n := startNode(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r := helper.Request{As: helper.AsOurselves, Home: "/no/such", Work: helper.SFTP}
	want := []string{fmt.Sprintf("Uid: %d", os.Geteuid()), "NoNewPrivs: 1"}
	if os.Geteuid() == 0 {
		r.As, r.UID, r.GID, r.Groups = helper.AsAccount, 65533, 65532, []uint32{65532, 46}
		want = []string{"Uid: 65533 65533 65533 65533", "Gid: 65532 65532 65532 65532", "Groups: 46 65532", "CapEff: 0000000000000000", "NoNewPrivs: 1"}
	}
	c, found, err := n.helpers.begin(t.Context(), r, [3]*os.File{null, null, null})
	if err != nil || !strings.Contains(found.warning, "/no/such: no such file") {
		t.Fatalf("%q, %v", found.warning, err)
	}
	<-c.ended // it is a zombie, and what it was can be seen
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		t.Fatal(err)
	}
	status := strings.Join(strings.FieldsFunc(string(text), func(r rune) bool { return r == ' ' || r == '\t' }), " ")
	for _, line := range want {
		if !strings.Contains(status, "\n"+line) {
			t.Errorf("no %q in %s", line, status)
		}
	}
	if _, err := c.reap(); err != nil {
		t.Error(err)
	}
}

func TestAProcessThatIsNotOursIsNotTakenForASession(t *testing.T) {
	for _, pid := range []int{-1, 0, 1, os.Getpid(), os.Getppid()} {
		if _, err := adopt(pid); err == nil {
			t.Errorf("process %d is ours", pid)
		}
	}
}

func TestASessionHasTheLimitsThatTheNodeWasStartedWith(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &before)
	const files = 500 // which Go would raise
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	_, c := enterNode(t)
	if got, _, _ := run(t, c, "ulimit -n"); got != fmt.Sprintln(files) {
		t.Errorf("%q open files, want %d", got, files)
	}
}

func TestWhatCannotBeStartedIsSaid(t *testing.T) {
	n := startNode(t)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	files := [3]*os.File{null, null, null}
	good := command{account: account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), home: "/", shell: "/bin/sh"}, become: os.Geteuid() == 0, task: task{kind: loginShell}}.request()
	if good.As == helper.AsAccount {
		good.UID, good.GID = 65534, 65534
	}
	for name, tt := range map[string]struct {
		change func(*helper.Request)
		want   string
	}{
		"no program":       {func(r *helper.Request) { r.Program = "/no/such" }, "cannot run /no/such: no such file"},
		"no terminal":      {func(r *helper.Request) { r.Terminal = true }, "cannot take the terminal"},
		"nobody's":         {func(r *helper.Request) { r.As = helper.AsNobody }, "nobody's process"},
		"another kind":     {func(r *helper.Request) { r.As = helper.AsRoot + 1 }, "nobody's process"},
		"no arguments":     {func(r *helper.Request) { r.Argv = nil }, "no program"},
		"a NUL in one":     {func(r *helper.Request) { r.Argv = []string{"sh", "-c", "a\x00b"} }, "a NUL byte"},
		"more than bounds": {func(r *helper.Request) { r.Env = []string{strings.Repeat("x", 1<<20)} }, "bytes, more than"},
	} {
		r := good
		tt.change(&r)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, _, err := n.helpers.begin(ctx, r, files); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if os.Geteuid() == 0 { // the zero value of "become" is no root
		r := good
		r.As = helper.AsOurselves
		if _, _, err := n.helpers.begin(t.Context(), r, files); err == nil || !strings.Contains(err.Error(), "cannot become") {
			t.Errorf("as root: %v", err)
		}
	}
}

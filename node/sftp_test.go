package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/audit/event"
)

// theirs is a folder of the tester's.
func theirs(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "dt-sftp") // t.TempDir's parents are nobody else's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newSFTP is a client that is not OpenSSH's, and not ours.
func newSFTP(t testing.TB, c *gossh.Client) *sftp.Client {
	t.Helper()
	s, err := sftp.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, c *sftp.Client, path string, flags int, text string) {
	t.Helper()
	f, err := c.OpenFile(path, flags)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFilesGoThereAndBack(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	f, err := c.Create(dir + "/large")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadFrom(bytes.NewReader(large)); err != nil || n != int64(len(large)) {
		t.Fatal(n, err)
	}
	if got := content(t, dir+"/large"); got != string(large) {
		t.Error("it is another one there")
	}
	var back bytes.Buffer
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if f, err = c.Open(dir + "/large"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteTo(&back); err != nil || !bytes.Equal(back.Bytes(), large) {
		t.Errorf("it is another one here: %d bytes, %v", back.Len(), err)
	}
}

func TestWhatIsAddedToAFileComesAtItsEnd(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	put(t, c, dir+"/f", os.O_CREATE|os.O_WRONLY, "one,")
	put(t, c, dir+"/f", os.O_APPEND|os.O_WRONLY, "two")
	if got := content(t, dir+"/f"); got != "one,two" {
		t.Errorf("%q", got)
	}
	put(t, c, dir+"/f", os.O_TRUNC|os.O_WRONLY, "3")
	if got := content(t, dir+"/f"); got != "3" {
		t.Errorf("%q", got)
	}
	if _, err := c.OpenFile(dir+"/f", os.O_CREATE|os.O_EXCL|os.O_WRONLY); err == nil {
		t.Error("it was made anew")
	}
}

func TestAFileMayBeLargerThan4GiB(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	f, err := c.Create(dir + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	const far = 5 << 30
	if _, err := f.WriteAt([]byte("end"), far); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	info, err := c.Stat(dir + "/sparse")
	if err != nil || info.Size() != far+3 {
		t.Errorf("%v, %v", info, err)
	}
	f.Close()
	if f, err = c.Open(dir + "/sparse"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(got, far); err != nil || string(got) != "end" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLinksAndNamesAreAsTheyWereAskedFor(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	put(t, c, dir+"/a", os.O_CREATE|os.O_WRONLY, "a")
	put(t, c, dir+"/b", os.O_CREATE|os.O_WRONLY, "b")
	if err := c.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if to, err := c.ReadLink(dir + "/link"); err != nil || to != "a" {
		t.Errorf("%q, %v", to, err)
	}
	if real, err := c.RealPath(dir + "/link"); err != nil || real != dir+"/a" {
		t.Errorf("%q, %v", real, err)
	}
	if real, err := c.RealPath(dir + "/not-yet"); err != nil || real != dir+"/not-yet" {
		t.Errorf("%q, %v", real, err)
	}
	if info, err := c.Lstat(dir + "/link"); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("%v, %v", info, err)
	}
	if err := c.Rename(dir+"/a", dir+"/b"); err == nil || content(t, dir+"/b") != "b" {
		t.Errorf("a rename has replaced a file: %v", err)
	}
	if err := c.PosixRename(dir+"/a", dir+"/b"); err != nil || content(t, dir+"/b") != "a" {
		t.Error(err)
	}
	if err := c.Link(dir+"/b", dir+"/c"); err != nil || content(t, dir+"/c") != "a" {
		t.Error(err)
	}
	if err := c.Remove(dir + "/c"); err != nil {
		t.Error(err)
	}
	if err := c.RemoveDirectory(dir + "/b"); err == nil {
		t.Error("a file was removed as a folder")
	}
	if _, err := c.Stat(dir + "/c"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if v, err := c.StatVFS(dir); err != nil || v.Bsize == 0 || v.Namemax == 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestWhatIsSaidOfAFileCanBeChanged(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	put(t, c, dir+"/f", os.O_CREATE|os.O_WRONLY, "longer")
	at := time.Unix(1_000_000_000, 0)
	f, err := c.OpenFile(dir+"/f", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(f.Chmod(0o604), f.Truncate(4), f.Sync(), f.Close(), c.Chtimes(dir+"/f", at, at))
	info, statErr := os.Stat(dir + "/f")
	if err != nil || statErr != nil || info.Mode() != 0o604 || info.Size() != 4 || !info.ModTime().Equal(at) {
		t.Errorf("%v, %v, %v", info, err, statErr)
	}
	if os.Geteuid() == 0 {
		if err := c.Chown(dir+"/f", 0, 0); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("given to root: %v", err)
		}
	}
}

func TestAFolderMayHaveManyFiles(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	const many = 10_000
	for i := range many {
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.ReadDir(dir)
	if err != nil || len(list) != many {
		t.Errorf("%d, %v", len(list), err)
	}
}

func TestAFIFOHoldsNothingUp(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	if err := syscall.Mkfifo(dir+"/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for _, flags := range []int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR} {
			if f, err := c.OpenFile(dir+"/fifo", flags); err == nil {
				f.Read(make([]byte, 1))
				f.Close()
			}
		}
		_, err := c.Stat(dir)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it hangs")
	}
}

func TestAFileTransferIsTheAccountsAndNobodyElses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another user's session needs root")
	}
	_, ssh := enterNode(t)
	c := newSFTP(t, ssh)
	secret := filepath.Join(theirs(t), "roots")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open(secret); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another's file: %v", err)
	}
	tasks, err := c.ReadDir("/proc/self/task")
	if err != nil || len(tasks) == 0 {
		t.Fatal(err)
	}
	for _, task := range tasks {
		f, err := c.Open("/proc/self/task/" + task.Name() + "/status")
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 8<<10)
		size, _ := f.ReadAt(text, 0)
		status := string(text[:size])
		for _, want := range []string{
			"\nUid:\t65534\t65534\t65534\t65534\n", "\nGid:\t65534\t65534\t65534\t65534\n", "\nGroups:\t46 65534 \n",
			"\nCapPrm:\t0000000000000000\n", "\nCapEff:\t0000000000000000\n",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("no %q in %q", want, status)
			}
		}
	}
	// What may be traced belongs to its user (proc(5), /proc/pid).
	if info, err := c.Stat("/proc/self/mem"); err != nil || info.Sys().(*sftp.FileStat).UID != 0 {
		t.Errorf("it can be traced: %+v, %v", info, err)
	}
	files, err := c.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	pipes := 0
	for _, f := range files {
		to, err := c.ReadLink("/proc/self/fd/" + f.Name())
		if strings.HasPrefix(to, "pipe:") {
			pipes++
		}
		if err == nil && !strings.HasPrefix(to, "pipe:") && !strings.HasPrefix(to, "/proc/") && !strings.HasPrefix(to, "anon_inode:[event") {
			t.Errorf("it has %s, %s", f.Name(), to)
		}
	}
	if pipes != 3 {
		t.Errorf("%d pipes, and not its three", pipes)
	}
}

func TestAnAccountWithoutAShellTransfersNoFiles(t *testing.T) {
	n := startNode(t, func(c *serverConfig) {
		passwd, group := testPasswd()
		c.accounts = testAccounts(t, strings.ReplaceAll(passwd, "/bin/sh", "/bin/false"), group, "")
	})
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	if said := lastWordsOf(t, c, ""); !strings.Contains(said, "needs an account with a shell") {
		t.Errorf("%q", said)
	}
}

func TestFileTransferTakesNoTerminal(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.RequestSubsystem("sftp"); err == nil {
		t.Error("it does")
	}
}

// lastWordsOf is what a file transfer that is told stream says on its standard
// error, up to its end.
func lastWordsOf(t *testing.T, c *gossh.Client, stream string) string {
	t.Helper()
	s := newSession(t, c)
	in, err := s.StdinPipe()
	errs, errsErr := s.StderrPipe()
	if err := errors.Join(err, errsErr, s.RequestSubsystem("sftp")); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, stream)
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(errs)
		said <- string(b)
	}()
	select {
	case text := <-said:
		return text
	case <-time.After(10 * time.Second):
		t.Fatalf("%q: it goes on", stream)
		return ""
	}
}

func TestAFileTransferMayNotOpenFilesWithoutEnd(t *testing.T) {
	_, ssh := enterNode(t)
	c, dir := newSFTP(t, ssh), theirs(t)
	put(t, c, dir+"/f", os.O_CREATE|os.O_WRONLY, "")
	var open []*sftp.File
	for {
		f, err := c.Open(dir + "/f")
		if err != nil {
			break
		}
		if open = append(open, f); len(open) > 2000 {
			t.Fatal("there is no end")
		}
	}
	for _, f := range open {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Open(dir + "/f"); err != nil {
		t.Errorf("%d were open, and none can be any more: %v", len(open), err)
	}
}

func TestAClientThatLeavesInTheMiddleLeavesNoProcess(t *testing.T) {
	_, ssh := enterNode(t)
	c := newSFTP(t, ssh)
	pid, err := c.RealPath("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	ssh.Close()
	eventually(t, "the process is gone", func() bool { return unix.Access(pid, unix.F_OK) != nil })
}

func TestACommandIsNotedAsSCPWhereItIsNothingElse(t *testing.T) {
	for line, want := range map[string]string{
		"scp -t /tmp/x": "upload /tmp/x", "scp -v -r -p -d -t -- dir name": "upload dir name", "scp -f *.txt": "download *.txt",
		"scp -t": "", "scp -t ": "", "scp -f -- ": "", "scp -t a; rm -rf b": "", "scp -t $(id)": "", "scp a b": "", "scp -S x -t y": "",
		"/bin/scp -t x": "", "scp  -t x": "", "scp -t -x": "", "": "", "scp": "", "scp ": "",
	} {
		action, path, ok := parseSCP(line)
		if got := strings.TrimSpace(action + " " + path); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", line, got, ok)
		}
	}
	n, c := enterNode(t)
	run(t, c, "scp -t /nowhere/x")
	if e := n.recorded(event.SCP); e.Action != "upload" || e.Path != "/nowhere/x" {
		t.Errorf("%+v", e)
	}
}

package node

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// outsider is a server whose processes are none of the test's own, so that
// what they take can be told.
type outsider struct {
	pid     int
	address string
}

// cpu is the processor time that the server has taken, with all processes that
// have ended; it waits until no session is left.
func (o *outsider) cpu(b *testing.B) time.Duration {
	b.Helper()
	var ticks int64
	eventually(b, "its sessions are over", func() bool {
		ticks = 0
		sessions := 0
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range stats {
			text, err := os.ReadFile(name)
			if err != nil {
				continue // it has ended
			}
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			// From the state on (proc_pid_stat(5)).
			f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
			if parent, _ := strconv.Atoi(f[1]); pid != o.pid && parent != o.pid {
				continue
			}
			args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if pid != o.pid && !strings.HasPrefix(string(args), "dtnoded: sessions") {
				sessions++
			}
			for _, field := range f[11:15] { // utime, stime, and of children
				n, _ := strconv.ParseInt(field, 10, 64)
				ticks += n
			}
		}
		return sessions == 0
	})
	const userHZ = 100 // sysconf(_SC_CLK_TCK), on all systems that we run on
	return time.Duration(ticks) * time.Second / userHZ
}

// nodeOutside names the process that is a node and no test.
const nodeOutside = "node test: node outside"

// startNodeOutside starts a node that believes ca, with the given accounts.
func startNodeOutside(b *testing.B, ca gossh.PublicKey, passwd, shadow string) *outsider {
	b.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{nodeOutside, b.TempDir(), string(gossh.MarshalAuthorizedKey(ca)), passwd, shadow}
	cmd.Stderr = os.Stderr
	stop, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stop.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return &outsider{pid: cmd.Process.Pid, address: strings.TrimSpace(address)}
}

// serveOutside is that process: it says where it listens, and serves until its
// input ends.
func serveOutside(dir, ca, passwd, shadow string) {
	t := &noTest{dir: dir}
	key, _, _, _, err := gossh.ParseAuthorizedKey([]byte(ca))
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t, func(c *serverConfig) {
		c.log = quiet()
		c.accounts.passwd, c.accounts.shadow = passwd, shadow
	})
	n.states.set(&state{authorities: []gossh.PublicKey{key}, policy: access(t)})
	fmt.Println(n.address)
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, f := range t.atEnd {
		f()
	}
}

// noTest lets what tests make be made outside of one.
type noTest struct {
	testing.TB
	dir   string
	atEnd []func()
}

func (t *noTest) Helper()          {}
func (t *noTest) TempDir() string  { return t.dir }
func (t *noTest) Cleanup(f func()) { t.atEnd = append(t.atEnd, f) }
func (t *noTest) Failed() bool     { return false }
func (t *noTest) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}
func (t *noTest) Error(args ...any) { t.Fatal(args...) }

// writePerson makes a key for id that cluster has certified, and the arguments
// by which OpenSSH's client shows it. It asks no server for its name.
func writePerson(b *testing.B, cluster *testCluster, id identity.Identity) (gossh.Signer, []string) {
	b.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		b.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(key, "")
	if err != nil {
		b.Fatal(err)
	}
	certified := cluster.certify(b, id, signer)
	path := filepath.Join(b.TempDir(), "key")
	for name, data := range map[string][]byte{
		path: pem.EncodeToMemory(block), path + "-cert.pub": gossh.MarshalAuthorizedKey(certified.PublicKey()),
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return certified, []string{
		"-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=none", "-o", "CertificateFile=" + path + "-cert.pub", "-i", path,
	}
}

// benchAccounts are this machine's accounts and one more: a user with a shell
// whose account is open. The machine's own files stay as they are.
func benchAccounts(b *testing.B, login string) (passwd, shadow string) {
	b.Helper()
	dir := b.TempDir()
	with := func(path, line string, mode os.FileMode) string {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		copied := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(copied, append(text, line+"\n"...), mode); err != nil {
			b.Fatal(err)
		}
		return copied
	}
	return with("/etc/passwd", login+":x:65533:65534::/:/bin/sh", 0o644), with("/etc/shadow", login+":*:20000:0:99999:7:::", 0o600)
}

// startSSHD starts a stock sshd that believes ca, and sees, in a mount
// namespace of its own, passwd and what lies beside it.
func startSSHD(b *testing.B, ca gossh.PublicKey, passwd string) *outsider {
	b.Helper()
	const program = "/usr/sbin/sshd"
	if _, err := os.Stat(program); err != nil {
		b.Fatalf("needs %s (Debian package openssh-server): %v", program, err)
	}
	// Its privilege separation directory is compiled in.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	pemKey, err := newHostKey()
	if err != nil {
		b.Fatal(err)
	}
	if block, _ := pem.Decode(pemKey); block == nil {
		b.Fatal("no PEM")
	}
	port := freePort(b)
	config := write("sshd_config", fmt.Appendf(nil, `ListenAddress 127.0.0.1:%d
HostKey %s
TrustedUserCAKeys %s
AuthorizedKeysFile none
AuthenticationMethods publickey
UsePAM no
Subsystem sftp /usr/lib/openssh/sftp-server
UseDNS no
PidFile none
MaxStartups 100
LogLevel INFO
`, port, write("host", pemKey), write("ca.pub", gossh.MarshalAuthorizedKey(ca))))
	var out bytes.Buffer
	// Over all of /etc: a mount on a file ends where somebody replaces that.
	cmd := exec.Command("/bin/sh", "-ec", `mount -t overlay -o lowerdir="$1":/etc accounts /etc; exec "$2" -D -e -f "$3"`,
		"sshd", filepath.Dir(passwd), program, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if b.Failed() {
			b.Log(out.String())
		}
	})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	eventually(b, "sshd listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return &outsider{pid: cmd.Process.Pid, address: address}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

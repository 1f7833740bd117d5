package node

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// limitTimesSSHD is how many times as fast as a stock sshd a login has to be.
const limitTimesSSHD = 8

// BenchmarkLogin is connect, certificate, exec true as another user, one after
// the other, with a client that acknowledges at once, on the node; and in the
// same run on a stock OpenSSH sshd, which every eighth round times.
func BenchmarkLogin(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("another user's session needs root")
	}
	const login = "bench"
	passwd, shadow := benchAccounts(b, login)
	n := startNode(b, func(c *serverConfig) { c.accounts.passwd, c.accounts.shadow = passwd, shadow })
	id := alice()
	id.Logins = []string{login}
	id.Traits = map[string][]string{"logins": {login}}
	key := newSigner(b)
	signer := n.cluster.certify(b, id, key)
	sshd := startSSHD(b, n.cluster.user.PublicKey(), passwd, shadow)

	login1 := func(address string) {
		if err := loginOnce(address, login, signer); err != nil {
			b.Fatalf("%s (the node is %s): %v", address, n.address, err)
		}
	}
	login1(n.address)
	login1(sshd)

	var ours, theirs time.Duration
	rounds := 0
	b.ResetTimer()
	for i := range b.N {
		start := time.Now()
		login1(n.address)
		ours += time.Since(start)
		if i%limitTimesSSHD == 0 {
			b.StopTimer()
			start := time.Now()
			login1(sshd)
			theirs += time.Since(start)
			rounds++
			b.StartTimer()
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(theirs)/float64(rounds)/(float64(ours)/float64(b.N)), "x_sshd")
	b.ReportMetric(limitTimesSSHD, "limit_x_sshd")
	b.ReportMetric(float64(theirs.Milliseconds())/float64(rounds), "ms/login_sshd")
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

func loginOnce(address, login string, signer gossh.Signer) error {
	tcp, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	conn, channels, requests, err := gossh.NewClientConn(newQuickConn(tcp, newMetrics()), address, &gossh.ClientConfig{
		// The same for both: OpenSSH 9.2 has no ML-KEM.
		Config: gossh.Config{KeyExchanges: []string{gossh.KeyExchangeCurve25519}},
		User:   login, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return err
	}
	c := gossh.NewClient(conn, channels, requests)
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		return err
	}
	return s.Run("true")
}

// startSSHD starts a stock sshd that believes ca, and gives its address. It
// sees the given accounts, in a mount namespace of its own.
func startSSHD(b *testing.B, ca gossh.PublicKey, passwd, shadow string) string {
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
	cmd := exec.Command("/bin/sh", "-ec", `mount --bind "$1" /etc/passwd; mount --bind "$2" /etc/shadow; exec "$3" -D -e -f "$4"`,
		"sshd", passwd, shadow, program, config)
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
	return address
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

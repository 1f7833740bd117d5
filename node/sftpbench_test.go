package node

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// BenchmarkSFTP is the stock sftp client on the node and, in the same run, on a
// stock sshd with its sftp-server: one large file each way, and many small
// ones.
func BenchmarkSFTP(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("another user's session needs root")
	}
	const login = "bench"
	passwd, shadow := benchAccounts(b, login)
	n := startNode(b, func(c *serverConfig) { c.accounts.passwd, c.accounts.shadow = passwd, shadow })
	sshd := startSSHD(b, n.cluster.user.PublicKey(), passwd).address
	keys := benchKeys(b, n, login)

	// Not on a disk: what is measured is the way to it.
	dir, err := os.MkdirTemp("/dev/shm", "dt-sftp")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		b.Fatal(err)
	}
	const large, small = 256 << 20, 2000
	local := filepath.Join(dir, "local")
	if err := os.MkdirAll(filepath.Join(local, "many"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(local, "large"), make([]byte, large), 0o644); err != nil {
		b.Fatal(err)
	}
	for i := range small {
		if err := os.WriteFile(filepath.Join(local, "many", fmt.Sprint(i)), []byte("small\n"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	run := func(address, batch string) time.Duration {
		_, port, _ := net.SplitHostPort(address)
		args := append(append([]string{}, keys...), "-q", "-P", port, "-b", "-", login+"@127.0.0.1")
		cmd := exec.Command("sftp", args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}
		cmd.Stdin = bytes.NewReader([]byte(batch))
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return time.Since(start)
	}
	for _, work := range []struct{ name, batch, clean string }{
		{"put-large", "put " + local + "/large " + dir + "/remote", dir + "/remote"},
		{"get-large", "get " + local + "/large " + dir + "/copy", dir + "/copy"},
		{"put-small", "put -r " + local + "/many " + dir + "/many2", dir + "/many2"},
		{"get-small", "get -r " + local + "/many " + dir + "/many3", dir + "/many3"},
	} {
		b.Run(work.name, func(b *testing.B) {
			var ours, theirs time.Duration
			for b.Loop() {
				theirs += run(sshd, work.batch)
				os.RemoveAll(work.clean)
				ours += run(n.address, work.batch)
				os.RemoveAll(work.clean)
			}
			b.ReportMetric(float64(theirs)/float64(ours), "x_sshd")
			b.ReportMetric(1, "limit_x_sshd")
			b.ReportMetric(float64(theirs.Milliseconds())/float64(b.N), "ms/op_sshd")
		})
	}
}

// benchKeys are a stock client's options with a key and certificate for login.
func benchKeys(b *testing.B, n *testNode, login string) []string {
	b.Helper()
	id := alice()
	id.Logins = []string{login}
	id.Traits = map[string][]string{"logins": {login}}
	pemKey, err := newHostKey()
	if err != nil {
		b.Fatal(err)
	}
	signer, err := gossh.ParsePrivateKey(pemKey)
	if err != nil {
		b.Fatal(err)
	}
	if block, _ := pem.Decode(pemKey); block == nil {
		b.Fatal("no PEM")
	}
	cert := n.cluster.certify(b, id, signer).PublicKey()
	dir := b.TempDir()
	for name, data := range map[string][]byte{"key": pemKey, "key-cert.pub": gossh.MarshalAuthorizedKey(cert)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return []string{
		"-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "CertificateFile=" + filepath.Join(dir, "key-cert.pub"), "-i", filepath.Join(dir, "key"),
	}
}

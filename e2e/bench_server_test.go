package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/e2e/stage"
)

// pair is a dtnoded and a stock sshd that believe the same cluster, and a
// person who may enter both.
type pair struct {
	*server
	alice            gossh.Signer
	key, certificate string
	sshd             *stage.Process
	sshdAddr         string
}

func startPair(b *testing.B) *pair {
	b.Helper()
	if !isRoot() {
		b.Skip("a stock sshd that changes the user needs root")
	}
	p := &pair{server: startServer(b)}
	p.alice, p.key, p.certificate = p.person(b, "alice", "access")
	ca, err := p.authd.DTCtl(b.Context(), "auth", "export", "--type=user")
	must(b, err)
	file := func(name, text string) string {
		path := filepath.Join(p.stage.Dir, name)
		must(b, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	// Its privilege separation directory is compiled in.
	must(b, os.MkdirAll("/run/sshd", 0o755))
	must(b, system("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(p.stage.Dir, "sshd_host")))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	p.sshdAddr = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(p.sshdAddr)
	config := file("sshd_config", fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s\nTrustedUserCAKeys %s\nAuthorizedKeysFile none\n"+
		"AuthenticationMethods publickey\nSubsystem sftp /usr/lib/openssh/sftp-server\nUsePAM no\nUseDNS no\nPidFile none\nMaxStartups 100\n",
		port, filepath.Join(p.stage.Dir, "sshd_host"), file("ca.pub", ca)))
	p.sshd, err = p.stage.Start(stage.Command{Name: "sshd", Program: "/usr/sbin/sshd", Args: []string{"-D", "-e", "-f", config}})
	must(b, err)
	must(b, stage.Poll(b.Context(), func() bool { c, err := net.Dial("tcp", p.sshdAddr); return err == nil && c.Close() == nil }))
	return p
}

// ssh runs a stock client on address.
func (p *pair) ssh(b *testing.B, address string, in io.Reader, out io.Writer, args ...string) {
	b.Helper()
	last := len(args) - 1
	p.stock(b, "ssh", address, in, out, args[:last], args[last])
}

// sftp runs a stock client on address.
func (p *pair) sftp(b *testing.B, address string, out io.Writer, args ...string) {
	b.Helper()
	p.stock(b, "sftp", address, nil, out, args)
}

func (p *pair) stock(b *testing.B, program, address string, in io.Reader, out io.Writer, options []string, command ...string) {
	b.Helper()
	host, port, err := net.SplitHostPort(address)
	must(b, err)
	args := append([]string{"-F", "none", "-o", "Port=" + port, "-i", p.key, "-o", "CertificateFile=" + p.certificate, "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes"}, options...)
	args = append(append(args, p.login+"@"+host), command...)
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), program, args...)
	var stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %s", err, &stderr)
	}
}

// beside times work on both servers by turns and reports how many times as
// fast as sshd the node is.
func (p *pair) beside(b *testing.B, size int, work func(address string)) {
	b.Helper()
	var ours, theirs time.Duration
	timed := func(address string) time.Duration {
		start := time.Now()
		work(address)
		return time.Since(start)
	}
	rounds := 0
	for b.Loop() {
		ours += timed(p.noded.Addr)
		theirs += timed(p.sshdAddr)
		rounds++
	}
	b.ReportMetric(float64(theirs)/float64(ours), "x_sshd")
	b.ReportMetric(float64(size)*float64(rounds)/ours.Seconds()/1e6, "MB/s")
}

// BenchmarkBulk carries bytes with a stock ssh, both ways, with the two
// ciphers that clients have.
func BenchmarkBulk(b *testing.B) {
	p := startPair(b)
	const size = 192 << 20
	for _, cipher := range []string{"aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"} {
		short, _, _ := strings.Cut(cipher, "-")
		b.Run(short+"/up", func(b *testing.B) {
			p.beside(b, size, func(address string) {
				zero, err := os.Open("/dev/zero")
				must(b, err)
				defer zero.Close()
				p.ssh(b, address, io.LimitReader(zero, size), io.Discard, "-c", cipher, "cat >/dev/null")
			})
		})
		b.Run(short+"/down", func(b *testing.B) {
			p.beside(b, size, func(address string) {
				p.ssh(b, address, nil, io.Discard, "-c", cipher, fmt.Sprintf("head -c %d /dev/zero", size))
			})
		})
	}
}

// BenchmarkIdle is what an idle authenticated connection takes of memory, in
// all processes together, beside sshd.
func BenchmarkIdle(b *testing.B) {
	p := startPair(b)
	each := func(pid int, address string, connections int) float64 {
		warm := p.idle(b, address, 5)
		before := pss(b, pid)
		held := p.idle(b, address, connections)
		taken := float64(pss(b, pid)-before) / float64(connections)
		for _, c := range append(held, warm...) {
			c.Close()
		}
		return taken
	}
	for b.Loop() {
		ours, theirs := each(p.noded.PID(), p.noded.Addr, 500), each(p.sshd.PID(), p.sshdAddr, 50)
		b.ReportMetric(ours, "KiB/connection")
		b.ReportMetric(theirs, "KiB/connection_sshd")
		b.ReportMetric(theirs/ours, "times_less")
	}
}

// BenchmarkManyIdle is a login while 5,000 connections are idle, over one to
// an empty server.
func BenchmarkManyIdle(b *testing.B) {
	p := startPair(b)
	const connections = 5000
	login := func() time.Duration {
		var all []time.Duration
		for range 25 {
			start := time.Now()
			must(b, p.runsTrue(p.alice))
			all = append(all, time.Since(start))
		}
		return median(all)
	}
	for b.Loop() {
		login()
		empty := login()
		held := p.idle(b, p.noded.Addr, connections)
		full := login()
		for _, c := range held {
			c.Close()
		}
		b.ReportMetric(float64(full)/float64(empty), "x_empty")
	}
}

// idle makes connections that do nothing.
func (p *pair) idle(b *testing.B, address string, n int) []*gossh.Client {
	b.Helper()
	held := make([]*gossh.Client, 0, n)
	for i := range n {
		c, err := gossh.Dial("tcp", address, &gossh.ClientConfig{
			User: p.login, Auth: []gossh.AuthMethod{gossh.PublicKeys(p.alice)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
		})
		if err != nil {
			b.Fatalf("after %d: %v", i, err)
		}
		held = append(held, c)
	}
	return held
}

// pss is the proportional share of memory (proc(5), smaps_rollup) of a process
// and all that it started, in KiB.
func pss(b *testing.B, pid int) int {
	b.Helper()
	total := 0
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	must(b, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			total, err = strconv.Atoi(strings.Fields(value)[0])
			must(b, err)
		}
	}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(b, err)
	for _, name := range children {
		text, _ := os.ReadFile(name) // a thread may have ended
		for _, child := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(child); err == nil {
				total += pss(b, child)
			}
		}
	}
	return total
}

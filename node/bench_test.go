package node

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// How many times as fast as a stock sshd a login has to be, with a client that
// acknowledges at once and with OpenSSH's own, one after the other and eight
// at once.
const (
	limitLogin, limitLoginEight       = 12, 9
	limitStockLogin, limitStockLogins = 6, 2.5
)

const benchLogin = "bench"

// rivals are a node and a stock sshd, each in processes of its own, that let in
// the same person as the same account.
type rivals struct {
	signer     gossh.Signer // the person's
	stock      []string     // and OpenSSH's client's arguments
	ours, sshd *outsider
}

func startRivals(b *testing.B) *rivals {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("another user's session needs root")
	}
	passwd, shadow := benchAccounts(b, benchLogin)
	cluster := newTestCluster(b)
	r := &rivals{
		ours: startNodeOutside(b, cluster.user.PublicKey(), passwd, shadow),
		sshd: startSSHD(b, cluster.user.PublicKey(), passwd),
	}
	id := alice()
	id.Logins = []string{benchLogin}
	id.Traits = map[string][]string{"logins": {benchLogin}}
	r.signer, r.stock = writePerson(b, cluster, id)
	return r
}

// BenchmarkLogin is connect, certificate, exec true as another user.
func BenchmarkLogin(b *testing.B) {
	r := startRivals(b)
	login := func(at *outsider) error { return loginOnce(at.address, benchLogin, r.signer) }
	b.Run("One", func(b *testing.B) { r.compare(b, 1, limitLogin, login) })
	b.Run("Eight", func(b *testing.B) { r.compare(b, 8, limitLoginEight, login) })
}

// BenchmarkStockLogin is the same with OpenSSH's own client, whose time is
// part of both.
func BenchmarkStockLogin(b *testing.B) {
	r := startRivals(b)
	login := func(at *outsider) error {
		_, port, _ := net.SplitHostPort(at.address)
		cmd := exec.Command("ssh", append(r.stock[:len(r.stock):len(r.stock)], "-p", port, benchLogin+"@127.0.0.1", "true")...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%w: %s", err, errs.String())
		}
		return nil
	}
	b.Run("One", func(b *testing.B) { r.compare(b, 1, limitStockLogin, login) })
	b.Run("Eight", func(b *testing.B) { r.compare(b, 8, limitStockLogins, login) })
}

// compare has so many clients log in at once, on the node and, in every eighth
// round, on sshd.
func (r *rivals) compare(b *testing.B, clients int, limit float64, login func(*outsider) error) {
	const every = 8
	round := func(at *outsider, each int) time.Duration {
		start := time.Now()
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for range each {
					if err := login(at); err != nil {
						b.Errorf("%s (the node is %s): %v", at.address, r.ours.address, err)
						return
					}
				}
			})
		}
		all.Wait()
		return time.Since(start)
	}
	each := 1
	if clients > 1 {
		each = 4 // so that the first and the last, who are alone, count less
	}
	round(r.ours, 1)
	round(r.sshd, 1)
	oursCPU, sshdCPU := r.ours.cpu(b), r.sshd.cpu(b)
	var ours, sshd time.Duration
	rounds := 0
	b.ResetTimer()
	for i := 0; i < b.N && !b.Failed(); i++ {
		ours += round(r.ours, each)
		if i%every == 0 {
			b.StopTimer()
			sshd += round(r.sshd, each)
			rounds++
			b.StartTimer()
		}
	}
	b.StopTimer()
	mean := func(d time.Duration, rounds int) float64 {
		return float64(d.Microseconds()) / 1000 / float64(rounds*clients*each)
	}
	b.ReportMetric(mean(sshd, rounds)/mean(ours, b.N), "x_sshd")
	b.ReportMetric(limit, "limit_x_sshd")
	b.ReportMetric(mean(ours, b.N), "ms/login")
	b.ReportMetric(mean(sshd, rounds), "ms/login_sshd")
	cpu, theirs := mean(r.ours.cpu(b)-oursCPU, b.N), mean(r.sshd.cpu(b)-sshdCPU, rounds)
	b.ReportMetric(cpu, "cpu-ms/login")
	b.ReportMetric(theirs, "cpu-ms/login_sshd")
	b.ReportMetric(theirs/cpu, "x_sshd_cpu")
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

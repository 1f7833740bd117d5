package ca

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func exports(t testing.TB, c *CA) []string {
	t.Helper()
	var out []string
	for _, what := range []string{"user", "host", "tls"} {
		text, err := c.Export(what)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, text)
	}
	return out
}

func TestTheFirstStartMakesTheAuthoritiesAndLaterOnesLoadThem(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		if d := cmp.Diff(exports(t, w.ca), exports(t, w.open(t))); d != "" {
			t.Errorf("first start (-), second (+):\n%s", d)
		}
		if n := w.count(t, `SELECT count(*) FROM authorities`); n != 3 {
			t.Errorf("%d authorities", n)
		}
		events, _, err := w.log.List(t.Context(), audit.Filter{Type: event.ClusterStart})
		if err != nil || len(events) != 1 || !events[0].Success || events[0].Name != testCluster {
			t.Errorf("recorded: %+v %v", events, err)
		}
	})
}

func TestTheStoredNameIsKnownBeforeOpening(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := &world{db: db, keeper: newKeeperFile(t), clock: newClock()}
		for _, want := range []string{"", testCluster} {
			w.read(t, func(tx *store.Tx) error {
				got, err := StoredCluster(tx)
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				return err
			})
			w.log = audit.Open(db, testCluster, w.keeper.AuditKey(), w.clock.now)
			w.open(t)
		}
	})
}

// Several dtauthd on one PostgreSQL may start for the first time at once.
func TestTwoFirstStartsAtOnceMakeOneSetOfAuthorities(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		keeper, clock := newKeeperFile(t), newClock()
		got := make([][]string, 4)
		var wg sync.WaitGroup
		for i := range got {
			db := storetest.OpenAt(t, address)
			log := audit.Open(db, testCluster, keeper.AuditKey(), clock.now)
			wg.Go(func() {
				c, err := Open(t.Context(), db, log, keeper, testCluster, clock.now)
				if err != nil {
					t.Error(err)
					return
				}
				got[i] = exports(t, c)
			})
		}
		wg.Wait()
		for _, g := range got[1:] {
			if d := cmp.Diff(got[0], g); d != "" {
				t.Errorf("one start (-), another (+):\n%s", d)
			}
		}
	})
}

// Each row does something to a good store or asks for something else of it.
func TestOpenRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		harm    func(t *testing.T, w *world)
		cluster string
		keeper  *Keeper
		want    string
	}{
		"another cluster's name": {cluster: "other.example.com", want: `belongs to cluster "example.com" and not to "other.example.com"`},
		"no cluster's name":      {cluster: "-", want: "must be a host name"},
		"another key file":       {keeper: newKeeperFile(t), want: "copy the key file"},
		"a lost authority": {harm: func(t *testing.T, w *world) {
			w.exec(t, `DELETE FROM authorities WHERE kind = 'host'`)
		}, want: "lost its host authority"},
		"all authorities lost": {harm: func(t *testing.T, w *world) {
			w.exec(t, `DELETE FROM authorities`)
		}, want: "lost its user authority"},
		"an SSH authority's public key replaced": {harm: func(t *testing.T, w *world) {
			w.exec(t, `UPDATE authorities SET public = $1 WHERE kind = 'user'`, sshKey(t).Marshal())
		}, want: "public key is not that of the private key"},
		"the TLS root replaced": {harm: func(t *testing.T, w *world) {
			_, der, err := newRoot(testCluster, w.clock.now())
			if err != nil {
				t.Fatal(err)
			}
			w.exec(t, `UPDATE authorities SET public = $1 WHERE kind = 'tls'`, der)
		}, want: "certificate is not that of the private key"},
		"user and host authorities exchanged": {harm: func(t *testing.T, w *world) {
			w.exec(t, `UPDATE authorities SET kind = CASE kind WHEN 'user' THEN 'host' ELSE 'user' END WHERE kind IN ('user', 'host')`)
		}, want: "copy the key file"},
		"a second authority": {harm: func(t *testing.T, w *world) {
			w.addAuthority(t, kindUser)
		}, want: "two user authorities"},
		"an authority of unknown kind": {harm: func(t *testing.T, w *world) {
			w.addAuthority(t, "oidc")
		}, want: "does not know"},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, db *store.DB) {
				w := newWorld(t, db)
				if row.harm != nil {
					row.harm(t, w)
				}
				cluster, keeper := testCluster, w.keeper
				if row.cluster != "" {
					cluster = row.cluster
				}
				if row.keeper != nil {
					keeper = row.keeper
				}
				_, err := Open(t.Context(), db, w.log, keeper, cluster, w.clock.now)
				if err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want it to say %q", err, row.want)
				}
			})
		})
	}
}

// addAuthority puts another row in, sealed with the right key.
func (w *world) addAuthority(t *testing.T, k kind) {
	t.Helper()
	w.write(t, func(tx *store.Tx) error {
		a, err := newAuthority(k, testCluster, w.clock.now())
		if err != nil {
			return err
		}
		return a.insert(tx, w.keeper, w.clock.now())
	})
}

func TestAFirstStartThatCannotBeRecordedLeavesNothing(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := &world{db: db, keeper: newKeeperFile(t), clock: newClock()}
		w.log = audit.Open(db, testCluster, w.keeper.AuditKey(), w.clock.now)
		w.exec(t, `DROP TABLE audit_log`)
		if _, err := Open(t.Context(), db, w.log, w.keeper, testCluster, w.clock.now); err == nil {
			t.Fatal("opened without a record")
		}
		if n := w.count(t, `SELECT (SELECT count(*) FROM authorities) + (SELECT count(*) FROM settings)`); n != 0 {
			t.Errorf("%d rows were left", n)
		}
	})
}

func TestTheRootIsOneThatSignsLeavesOnly(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	root := w.ca.TLSAuthorities()[0]
	if !root.IsCA || root.MaxPathLen != 0 || !root.MaxPathLenZero || root.Subject.CommonName != "dt example.com" {
		t.Errorf("root: CA %v, path length %d, subject %s", root.IsCA, root.MaxPathLen, root.Subject)
	}
	if root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || root.NotAfter.Sub(w.clock.now()) < 9*365*24*time.Hour {
		t.Errorf("root: usage %v, until %v", root.KeyUsage, root.NotAfter)
	}
}

func TestExportsAreWhatOpenSSHAndTLSRead(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	text := exports(t, w.ca)

	user, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(text[0]))
	if err != nil || len(rest) > 0 || string(user.Marshal()) != string(w.ca.UserAuthorities()[0].Marshal()) {
		t.Errorf("user: %q %v", text[0], err)
	}
	marker, hosts, host, _, _, err := ssh.ParseKnownHosts([]byte(text[1]))
	if err != nil || marker != "cert-authority" || cmp.Diff([]string{"*"}, hosts) != "" ||
		string(host.Marshal()) != string(w.ca.HostAuthorities()[0].Marshal()) {
		t.Errorf("host: %q %v", text[1], err)
	}
	block, more := pem.Decode([]byte(text[2]))
	if block == nil || len(more) > 0 || !strings.HasPrefix(w.ca.Pin(), "sha256:") || len(w.ca.Pin()) != len("sha256:")+64 {
		t.Errorf("tls: %q, pin %q", text[2], w.ca.Pin())
	} else if root, err := x509.ParseCertificate(block.Bytes); err != nil || !root.Equal(w.ca.TLSAuthorities()[0]) {
		t.Errorf("tls: %v", err)
	}
	var refusal *api.Refusal
	if _, err := w.ca.Export("jwt"); !errors.As(err, &refusal) {
		t.Errorf("unknown type: %v", err)
	}

	file := filepath.Join(t.TempDir(), "ca.pub")
	if err := os.WriteFile(file, []byte(text[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-l", "-f", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), ssh.FingerprintSHA256(user)) {
		t.Errorf("ssh-keygen says %q, %v", out, err)
	}
}

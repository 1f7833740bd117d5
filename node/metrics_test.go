package node

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	gossh "golang.org/x/crypto/ssh"
)

// metric reads one sample, "" where there is none.
func (n *testNode) metric(name string) string {
	n.t.Helper()
	w := httptest.NewRecorder()
	diagHandler(n.metrics.registry, func() error { return nil }).ServeHTTP(w, httptest.NewRequestWithContext(n.t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		n.t.Fatalf("/metrics: %d, %s", w.Code, w.Body)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.+)$`).FindStringSubmatch(w.Body.String())
	if found == nil {
		return ""
	}
	return found[1]
}

func TestWhatHappensIsCounted(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	c := n.mustDial(tester, signer)
	s := newSession(t, c)
	if _, err := s.StdinPipe(); err != nil { // which stays open
		t.Fatal(err)
	}
	if err := s.Start("exec cat"); err != nil {
		t.Fatal(err)
	}
	stranger, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for name, want := range map[string]string{
		`dtnoded_connections{state="admitted"}`:          "1",
		`dtnoded_connections{state="unauthenticated"}`:   "1",
		`dtnoded_sessions{kind="exec"}`:                  "1",
		`dtnoded_sessions_started_total{kind="exec"}`:    "1",
		`dtnoded_sessions_started_total{kind="shell"}`:   "",
		`dtnoded_handshake_seconds_count`:                "1",
		`dtnoded_decision_seconds_count`:                 "1",
		`dtnoded_dropped_connections_total`:              "0",
		`dtnoded_rejections_total{cause="other"}`:        "",
		`dtnoded_rejections_total{cause="max-sessions"}`: "",
	} {
		eventually(t, fmt.Sprintf("%s is %q", name, want), func() bool { return n.metric(name) == want })
	}
	for _, name := range []string{`dtnoded_bytes_total{direction="in"}`, `dtnoded_bytes_total{direction="out"}`, "dtnoded_spool_bytes", "dtnoded_policy_age_seconds"} {
		if got := n.metric(name); got == "" || got == "0" {
			t.Errorf("%s is %q", name, got)
		}
	}
	s.Close()
	c.Close()
	for _, name := range []string{`dtnoded_sessions{kind="exec"}`, `dtnoded_connections{state="admitted"}`} {
		eventually(t, name+" is 0 again", func() bool { return n.metric(name) == "0" })
	}
	n.states.heard(time.Time{})
	if got := n.metric("dtnoded_policy_age_seconds"); got != "+Inf" {
		t.Errorf("without news the policy's age is %s", got)
	}
}

func TestRefusalsAreCountedByWhatDecided(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	other := &testCluster{user: newSigner(t)}
	expired := alice()
	expired.ValidAfter, expired.ValidBefore = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	refuse := func(login string, signer gossh.Signer) {
		t.Helper()
		if _, err := n.dial(login, signer); err == nil {
			t.Fatal("entered")
		}
	}
	refuse("Odd\x1b{login}", signer)
	refuse("daemon", signer)
	refuse(tester, other.certify(t, alice(), newSigner(t)))
	refuse(tester, n.cluster.certify(t, expired, newSigner(t)))
	c := n.mustDial(tester, signer)
	n.decideBy(access(t, requireDevice))
	refuse(tester, signer)
	eventually(t, "the one who was in is cut off", func() bool { _, _, err := c.SendRequest("x", true, nil); return err != nil })
	for cause, want := range map[string]string{
		"malformed-login": "1", "certificate-not-a-principal": "1", "certificate-unknown-authority": "1",
		"certificate-expired": "1", "trusted-device-required": "1", "other": "",
	} {
		if got := n.metric(`dtnoded_rejections_total{cause="` + cause + `"}`); got != want {
			t.Errorf("%s: %q, want %q", cause, got, want)
		}
	}
}

func TestNoLabelIsAClients(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	for _, login := range []string{"secret-login", "SECRET", "secret{}"} {
		n.dial(login, signer)
	}
	n.metrics.refused(&refusal{reason: "secret"})
	families, err := n.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := regexp.MustCompile(`^[a-z-]+$`)
	labels := 0
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "dtnoded_") { // Go's own
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels++
				if !known.MatchString(l.GetValue()) || strings.Contains(strings.ToLower(l.GetValue()), "secret") {
					t.Errorf("%s has %s=%q", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	if labels == 0 {
		t.Error("there are no labels")
	}
}

func TestDiagnosisSaysWhatIsMissing(t *testing.T) {
	registry := prometheus.NewRegistry()
	get := func(path string, problem error) (int, string) {
		w := httptest.NewRecorder()
		diagHandler(registry, func() error { return problem }).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	for _, tt := range []struct {
		path    string
		problem error
		code    int
		body    string
	}{
		{"/healthz", io.EOF, 200, `{"status":"ok"}`},
		{"/readyz", nil, 200, `{"status":"ok"}`},
		{"/readyz", io.EOF, 503, `{"status":"EOF"}`},
		{"/metrics", nil, 200, ""},
		{"/", nil, 404, "404 page not found"},
		{"/debug/pprof/", nil, 404, "404 page not found"},
	} {
		if code, body := get(tt.path, tt.problem); code != tt.code || strings.TrimSpace(body) != tt.body {
			t.Errorf("%s: %d %q", tt.path, code, body)
		}
	}
	for address, want := range map[string]string{"": "", "off": "", "3081": "--diag-listen", "127.0.0.1:x": "cannot listen"} {
		l, err := listenDiag(t.Context(), address)
		if l != nil || (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", address, l, err)
		}
	}
}

func TestDiagnosisTakesNoMoreConnectionsThanItNeeds(t *testing.T) {
	l, err := listenDiag(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := diagServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	go srv.Serve(l)
	defer srv.Close()
	var held []net.Conn
	for range maxDiagConnections {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	ask := func() error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(r)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	eventually(t, "one more is not served", func() bool { return ask() != nil })
	held[0].Close()
	eventually(t, "there is room again", func() bool { return ask() == nil })
}

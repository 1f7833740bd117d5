package node

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
)

func TestAPortForDiagnosisIsTheSuccessors(t *testing.T) {
	p := startPlane(t)
	h := newHanded(t, p)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.config.Diag = l.Addr().String()
	l.Close()
	h.configure()
	h.start()
	bob, err := h.dialAs("bob") // for whose sake the first process lives on
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()

	// Who asks keeps their connection, as scrapers do.
	ready := func() error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.config.Diag+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %q, %w", res.Status, body, err)
		}
		return nil
	}
	eventually(t, "the first answers", func() bool { return ready() == nil })
	for range 2 {
		h.handOver()
		eventually(t, "the successor answers", func() bool { return ready() == nil })
	}
	pids := h.serving()
	h.ended(pids[1])
	// The first is there yet; without the last nobody answers.
	h.signal(syscall.SIGTERM)
	h.ended(pids[2])
	if err := ready(); err == nil {
		t.Error("a process that has handed over answers yet")
	}
	if out, _, _ := run(t, bob, "echo on"); out != "on\n" {
		t.Errorf("the first process's session: %q", out)
	}
}

package ca

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestANodeGetsAHostCertificateAndACallersCertificate(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		host, der, err := w.ca.IssueNode(t.Context(), w.nodeRequest(t), allow)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"web-1", "web-1.example.com", "192.0.2.1", "::1"}, host.ValidPrincipals); d != "" {
			t.Errorf("principals: want (-), got (+):\n%s", d)
		}
		for _, name := range []string{"web-1", "WEB-1.example.com", "::1"} {
			check := identity.HostCheck{Authorities: w.ca.HostAuthorities(), Names: []string{name}, Now: w.clock.now()}
			if err := check.Check(host); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if end := time.Unix(int64(host.ValidBefore), 0); !end.Equal(w.clock.now().Add(NodeLife)) {
			t.Errorf("it ends %v", end)
		}
		caller, err := w.ca.VerifyTLSClient(mustParse(t, der))
		if err != nil || caller.Kind() != identity.KindNode || caller.Name() != "node-1" || caller.Serial() != 2 {
			t.Errorf("X.509: %+v %v", caller, err)
		}
		want := event.Event{
			Type: event.CertCreate, Code: "TC000I", Cluster: testCluster, User: "node:node-1", Success: true,
			Kind: "node", Name: "web-1", NodeID: "node-1", NodeName: "web-1", Serials: []uint64{1, 2}, ValidUntil: w.clock.now().Add(NodeLife),
		}
		if d := cmp.Diff([]event.Event{want}, w.certEvents(t), cmpopts.IgnoreFields(event.Event{}, "UID", "Time")); d != "" {
			t.Errorf("record: want (-), got (+):\n%s", d)
		}
	})
}

// One root per cluster is the rule; a root that was copied to another cluster
// must still not make callers here.
func TestACallerOfAnotherClusterIsRefused(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	key, _ := tlsKey(t)
	template, err := identity.NodeTemplate("other.example.com", "node-1", 1, w.clock.now(), w.clock.now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca.root, key.Public(), w.ca.tls)
	if err != nil {
		t.Fatal(err)
	}
	caller, err := w.ca.VerifyTLSClient(mustParse(t, der))
	if identity.ReasonOf(err) != identity.ReasonAuthority || caller.Kind() != identity.KindNone {
		t.Errorf("got %+v, %v", caller, err)
	}
}

func TestANodeThatCouldPassForOthersIsRefused(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	signatures := w.countSignatures()
	for name, fault := range map[string]func(*NodeRequest){
		"every name":       func(r *NodeRequest) { r.Principals = []string{"*"} },
		"a pattern":        func(r *NodeRequest) { r.Name = "web-?" },
		"a list":           func(r *NodeRequest) { r.Hostname = "a,b" },
		"without an ID":    func(r *NodeRequest) { r.NodeID = "" },
		"an ID of a path":  func(r *NodeRequest) { r.NodeID = "../user/alice" },
		"without names":    func(r *NodeRequest) { r.Name, r.Hostname, r.Principals = "", "", nil },
		"without a key":    func(r *NodeRequest) { r.SSHKey = nil },
		"with garbage key": func(r *NodeRequest) { r.TLSKey = []byte("x") },
	} {
		t.Run(name, func(t *testing.T) {
			req := w.nodeRequest(t)
			fault(&req)
			if _, _, err := w.ca.IssueNode(t.Context(), req, allow); err == nil {
				t.Error("was issued")
			}
		})
	}
	refusal := api.Refuse(connect.CodeAlreadyExists, "that name is taken")
	if _, _, err := w.ca.IssueNode(t.Context(), w.nodeRequest(t), func(*store.Tx) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("got %v", err)
	}
	if n := signatures.Load(); n != 0 {
		t.Errorf("%d signatures were made", n)
	}
}

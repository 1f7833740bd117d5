package authd

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/store/storetest"
)

// joinAs is tryJoin with a node that claims what info says.
func (r *running) joinAs(info *dtv1.NodeInfo) (*keys, error) {
	k := newKeys(r.t)
	res, err := dtv1connect.NewNodeServiceClient(r.https(nil), r.url()).Join(r.t.Context(), connect.NewRequest(&dtv1.JoinRequest{
		Token: r.joinToken(nil), Node: info, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
	}))
	if err == nil {
		k.take(r.t, res.Msg.GetHostCertificate(), res.Msg.GetTlsCertificate())
	}
	return k, err
}

func TestANameThatAnotherNodesCertificateHasIsTaken(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { claimNames(t, start(t)) })
	t.Run("postgres", func(t *testing.T) { claimNames(t, startAt(t, dataDir(t), storetest.PostgresURL(t))) })
}

func claimNames(t *testing.T, r *running) {
	t.Helper()
	evil := nodeInfo("evil")
	evil.Addresses = append(evil.Addresses, "DB:3022")
	if _, err := r.joinAs(evil); err != nil {
		t.Fatal(err)
	}
	_, err := r.joinAs(nodeInfo("db"))
	wantCode(t, err, connect.CodeAlreadyExists)
	shared := nodeInfo("web")
	shared.Addresses = append(shared.Addresses, "db:3023")
	if _, err := r.joinAs(shared); err != nil {
		t.Errorf("an address that two nodes share: %v", err)
	}
	for _, name := range []string{"evil", "web"} {
		if _, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "node", Name: name})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.joinAs(nodeInfo("db")); err != nil {
		t.Errorf("the others are gone: %v", err)
	}
}

func TestANameIsANodesUntilItsCertificateEnds(t *testing.T) {
	r, c := startWithClock(t)
	db := r.join("db")
	if _, err := dtv1connect.NewNodeServiceClient(r.https(db), r.url()).Heartbeat(t.Context(), connect.NewRequest(&dtv1.HeartbeatRequest{Node: nodeInfo("db-renamed")})); err != nil {
		t.Fatal(err)
	}
	told := column(t, r.database(), `SELECT record FROM audit_log WHERE event = 'instance.update'`)
	if len(told) != 1 || !strings.Contains(told[0], "name: db → db-renamed") {
		t.Errorf("the record of the change: %v", told)
	}
	second := nodeInfo("second")
	second.Addresses = append(second.Addresses, "db:3022")
	for _, info := range []*dtv1.NodeInfo{nodeInfo("db"), nodeInfo("DB"), second} {
		_, err := r.joinAs(info)
		wantCode(t, err, connect.CodeAlreadyExists)
	}
	c.forward(25 * time.Hour)
	if _, err := r.joinAs(nodeInfo("db")); err != nil {
		t.Errorf("its certificate has ended: %v", err)
	}
}

// renew asks for new certificates as what info says.
func (r *running) renew(k *keys, info *dtv1.NodeInfo) {
	r.t.Helper()
	res, err := dtv1connect.NewNodeServiceClient(r.https(k), r.url()).Renew(r.t.Context(), connect.NewRequest(&dtv1.RenewRequest{
		Node: info, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
	}))
	if err != nil {
		r.t.Fatal(err)
	}
	k.take(r.t, res.Msg.GetHostCertificate(), res.Msg.GetTlsCertificate())
}

func TestARenewalThatChangesANodeIsRecorded(t *testing.T) {
	r := start(t)
	node := r.join("db")
	changed := nodeInfo("db-renamed")
	changed.Labels = map[string]string{"env": "secret"}
	r.renew(node, changed)
	r.renew(node, changed)
	told := column(t, r.database(), `SELECT record FROM audit_log WHERE event = 'instance.update'`)
	if len(told) != 1 || !strings.Contains(told[0], "name: db → db-renamed") || !strings.Contains(told[0], `"labels"`) {
		t.Errorf("the records of the change: %v", told)
	}
}

// A machine's host name stays in each of its node's certificates: as the
// node's own name it is reserved no longer than the one that said so.
func TestAFirstNameIsNotReservedForEver(t *testing.T) {
	r, c := startWithClock(t)
	first := nodeInfo("vm")
	first.Hostname = "vm"
	node, err := r.joinAs(first)
	if err != nil {
		t.Fatal(err)
	}
	renamed := nodeInfo("web-1")
	renamed.Hostname = "vm"
	c.forward(13 * time.Hour)
	r.renew(node, renamed)
	second := nodeInfo("web-9")
	second.Hostname = "vm"
	_, err = r.joinAs(second)
	wantCode(t, err, connect.CodeAlreadyExists)
	c.forward(13 * time.Hour)
	if _, err := r.joinAs(second); err != nil {
		t.Errorf("the certificate that named it vm has ended: %v", err)
	}
}

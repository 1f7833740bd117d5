package authd

import (
	"fmt"
	"net"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/resource"
)

// What a node may not say of itself, neither when it joins nor later.
func TestANodeCannotClaimWhatItMayNot(t *testing.T) {
	r := start(t)
	r.join("db")
	res, err := r.resources().GetResource(t.Context(), connect.NewRequest(&dtv1.GetResourceRequest{Kind: "node", Name: "db"}))
	if err != nil {
		t.Fatal(err)
	}
	db, err := resource.ParseJSON(res.Msg.GetResource())
	if err != nil {
		t.Fatal(err)
	}
	id := db.Head().Metadata.Name
	hostile := r.join("hostile")
	c := dtv1connect.NewNodeServiceClient(r.https(hostile), r.url())
	for name, claim := range map[string]struct {
		change func(*dtv1.NodeInfo)
		want   connect.Code
	}{
		"another's name":                 {func(i *dtv1.NodeInfo) { i.Name = "db" }, connect.CodeAlreadyExists},
		"another's name in capitals":     {func(i *dtv1.NodeInfo) { i.Name = "DB" }, connect.CodeAlreadyExists},
		"another's name for a host name": {func(i *dtv1.NodeInfo) { i.Hostname = "Db" }, connect.CodeAlreadyExists},
		"another's name for an address":  {func(i *dtv1.NodeInfo) { i.Addresses = append(i.Addresses, "DB:22") }, connect.CodeAlreadyExists},
		"another's ID":                   {func(i *dtv1.NodeInfo) { i.Name = id }, connect.CodeAlreadyExists},
		"a port that is text":            {func(i *dtv1.NodeInfo) { i.Addresses = []string{"a:22\nProxyCommand x"} }, connect.CodeInvalidArgument},
		"a port that is none":            {func(i *dtv1.NodeInfo) { i.Addresses = []string{"a:0"} }, connect.CodeInvalidArgument},
		"a zone":                         {func(i *dtv1.NodeInfo) { i.Addresses = []string{"[fe80::1%\nx]:22"} }, connect.CodeInvalidArgument},
		"a pattern":                      {func(i *dtv1.NodeInfo) { i.Addresses = []string{"*:22"} }, connect.CodeInvalidArgument},
		"no address":                     {func(i *dtv1.NodeInfo) { i.Addresses = nil }, connect.CodeInvalidArgument},
		"a version that moves a cursor":  {func(i *dtv1.NodeInfo) { i.Version = "1\x1b[2J" }, connect.CodeInvalidArgument},
		"a label that moves a cursor":    {func(i *dtv1.NodeInfo) { i.Labels["env"] = "a\x1b[2J" }, connect.CodeInvalidArgument},
		"a name with a line in it":       {func(i *dtv1.NodeInfo) { i.Name = "a\nb" }, connect.CodeInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			info := nodeInfo("hostile")
			claim.change(info)
			k := newKeys(t)
			sshKey := k.ssh.PublicKey().Marshal()
			if info.GetHostname() == "hostile" { // a heartbeat's host name goes nowhere
				wantCode(t, fails(c.Heartbeat(t.Context(), connect.NewRequest(&dtv1.HeartbeatRequest{Node: info}))), claim.want)
			}
			wantCode(t, fails(c.Renew(t.Context(), connect.NewRequest(&dtv1.RenewRequest{Node: info, SshPublicKey: sshKey, TlsPublicKey: k.der}))), claim.want)
			if info.GetName() == "hostile" { // which joined
				info.Name = "hostile-2"
			}
			wantCode(t, fails(c.Join(t.Context(), connect.NewRequest(&dtv1.JoinRequest{
				Token: r.joinToken(nil), Node: info, SshPublicKey: sshKey, TlsPublicKey: k.der,
			}))), claim.want)
		})
	}
}

func TestConnectionsAreCountedForANetworkThatOneHostHas(t *testing.T) {
	l := newBoundedListener(nil)
	from := func(ip string) bool { return l.enter(place(&net.TCPAddr{IP: net.ParseIP(ip)})) }
	for i := range maxConnectionsPerAddress {
		if !from(fmt.Sprintf("2001:db8::%x", i+1)) {
			t.Fatalf("connection %d was refused", i)
		}
	}
	if from("2001:db8::ffff:1") {
		t.Error("a host with many addresses has more connections than one with one")
	}
	if !from("2001:db8:0:1::1") || !from("192.0.2.1") || !from("192.0.2.2") {
		t.Error("others were refused")
	}
	l.leave(place(&net.TCPAddr{IP: net.ParseIP("2001:db8::7")}))
	if !from("2001:db8::ffff:1") {
		t.Error("a place that was left is not free")
	}
}

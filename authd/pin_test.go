package authd

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

// from is a client that shows k's certificate and calls from another address.
func (r *running) from(k *keys, ip net.IP) *http.Client {
	t := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: r.roots, Certificates: []tls.Certificate{*k.certificate}, MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}).DialContext(ctx, network, address)
		},
	}
	r.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

func TestAPinnedLoginCallsFromItsOwnAddressOnly(t *testing.T) {
	r := start(t)
	for name, pinned := range map[string]string{"pinned": "true", "free": "false"} {
		doc := `{kind: role, version: v7, metadata: {name: ` + name + `}, spec: {options: {pin_source_ip: ` + pinned + `}, allow: {logins: [root], rules: [{resources: [user], verbs: [list]}]}}}`
		if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "role", Resource: []byte(doc)})); err != nil {
			t.Fatal(err)
		}
	}
	r.addUser("eve", "pinned", "free")
	r.addUser("adam", "free")
	// One method that asks for a rule, and one that only asks for a login.
	call := func(c *http.Client) [2]error {
		_, rule := dtv1connect.NewResourceServiceClient(c, r.url()).ListResources(t.Context(), connect.NewRequest(&dtv1.ListResourcesRequest{Kind: "user"}))
		_, login := dtv1connect.NewAdminServiceClient(c, r.url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
		return [2]error{rule, login}
	}
	eve, adam, elsewhere := r.login("eve"), r.login("adam"), net.IPv4(127, 0, 0, 9)
	for _, err := range call(r.from(eve, elsewhere)) {
		wantCode(t, err, connect.CodePermissionDenied)
	}
	for who, c := range map[string]*http.Client{"eve at home": r.https(eve), "adam elsewhere": r.from(adam, elsewhere)} {
		for _, err := range call(c) {
			if err != nil {
				t.Errorf("%s: %v", who, err)
			}
		}
	}
}

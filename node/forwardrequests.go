package node

import (
	"errors"
	"fmt"

	"devicetrust/node/sockets"
	"devicetrust/policy"
)

// What a client may ask to be forwarded (RFC 4254 section 7; OpenSSH's
// PROTOCOL, sections 2.4 and 2.5). Parsers are as those of requests.go.

// parseDirectTCP reads a "direct-tcpip" channel's opening. Who connects at the
// client's side is anybody's claim, and left out.
func parseDirectTCP(payload []byte) (policy.Target, error) {
	var raw struct {
		Host       string
		Port       uint32
		Originator string
		FromPort   uint32
	}
	if err := unmarshal(payload, &raw); err != nil {
		return policy.Target{}, err
	}
	if raw.Host == "" || raw.Port == 0 {
		return policy.Target{}, errors.New("no host, or no port, to connect to")
	}
	return portTarget(policy.ToPort, raw.Host, raw.Port)
}

func portTarget(kind policy.TargetKind, host string, port uint32) (policy.Target, error) {
	if port > 1<<16-1 {
		return policy.Target{}, fmt.Errorf("port %d", port)
	}
	if err := sockets.CheckHost(host); err != nil {
		return policy.Target{}, err
	}
	return policy.Target{Kind: kind, Host: host, Port: uint16(port)}, nil
}

// parseDirectSocket reads a "direct-streamlocal@openssh.com" channel's opening.
func parseDirectSocket(payload []byte) (policy.Target, error) {
	var raw struct {
		Path     string
		Reserved string
		Unused   uint32
	}
	if err := unmarshal(payload, &raw); err != nil {
		return policy.Target{}, err
	}
	return socketTarget(policy.ToSocket, raw.Path)
}

func socketTarget(kind policy.TargetKind, path string) (policy.Target, error) {
	if err := sockets.CheckPath(path); err != nil {
		return policy.Target{}, err
	}
	return policy.Target{Kind: kind, Path: path}, nil
}

// parseListen reads what "tcpip-forward" and "cancel-tcpip-forward" name. All
// of "", "*" and "0.0.0.0" is every address, as OpenSSH takes it.
func parseListen(payload []byte) (policy.Target, error) {
	var raw struct {
		Host string
		Port uint32
	}
	if err := unmarshal(payload, &raw); err != nil {
		return policy.Target{}, err
	}
	return portTarget(policy.FromPort, raw.Host, raw.Port)
}

// parseListenSocket reads what "streamlocal-forward@openssh.com" and its
// cancelling name.
func parseListenSocket(payload []byte) (policy.Target, error) {
	var raw struct{ Path string }
	if err := unmarshal(payload, &raw); err != nil {
		return policy.Target{}, err
	}
	return socketTarget(policy.FromSocket, raw.Path)
}

// x11Request is an "x11-req" (RFC 4254 section 6.3.1).
type x11Request struct {
	single  bool // one connection, and no more
	display sockets.Display
}

func parseX11(payload []byte) (x11Request, error) {
	var raw struct {
		Single           bool
		Protocol, Cookie string
		Screen           uint32
	}
	if err := unmarshal(payload, &raw); err != nil {
		return x11Request{}, err
	}
	d := sockets.Display{Protocol: raw.Protocol, Cookie: raw.Cookie, Screen: raw.Screen}
	return x11Request{raw.Single, d}, d.Check()
}

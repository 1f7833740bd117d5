package resource

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
)

// NodeClaims is what a node says of itself when it joins and lives, unchecked.
type NodeClaims struct {
	Name string
	// Hostname may be empty.
	Hostname string
	// Addresses are host:port.
	Addresses []string
	Labels    map[string]string
	Version   string
	// Enforcer is one of the words below; empty is EnforcerDaemon.
	Enforcer string
}

// What enforces on a node: dtnoded itself, or a stock sshd with its help.
const (
	EnforcerDaemon = "dtnoded"
	EnforcerSSHD   = "sshd"
)

// Check refuses what a node may not claim. The node asks it before it spends
// its token, and the control plane before it believes anything.
func (c NodeClaims) Check() error {
	if err := CheckNodeName(c.Name); err != nil {
		return fmt.Errorf("node name %w", err)
	}
	if c.Hostname != "" {
		if err := CheckNodeName(c.Hostname); err != nil {
			return fmt.Errorf("host name %w", err)
		}
	}
	if n := len(c.Addresses); n == 0 || n > maxNodeAddresses {
		return fmt.Errorf("a node has 1 to %d addresses, got %d", maxNodeAddresses, n)
	}
	for _, a := range c.Addresses {
		host, port, err := net.SplitHostPort(a)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
			return fmt.Errorf("address %.300q is not host:port", a)
		}
		// A zone may hold any text, and means nothing on another machine.
		if ip, err := netip.ParseAddr(host); (err != nil || ip.Zone() != "") && CheckNodeName(host) != nil {
			return fmt.Errorf("address %.300q is not host:port", a)
		}
	}
	if len(c.Version) > maxNodeLabel || !printable(c.Version) {
		return fmt.Errorf("version %.300q must be at most %d printable characters", c.Version, maxNodeLabel)
	}
	switch c.Enforcer {
	case "", EnforcerDaemon, EnforcerSSHD:
	default:
		return fmt.Errorf("%.64q is not known to enforce anything: %s or %s", c.Enforcer, EnforcerDaemon, EnforcerSSHD)
	}
	return CheckNodeLabels(c.Labels)
}

var nodeName = lazily(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)

// CheckNodeName refuses what a node cannot be called.
func CheckNodeName(name string) error {
	if !nodeName().MatchString(name) {
		return fmt.Errorf("%.300q must be made of a-z A-Z 0-9 . -", name)
	}
	return nil
}

var nodeLabelKey = lazily(`^[a-zA-Z0-9/_.:-]{1,128}$`)

// CheckNodeLabels refuses labels that a node cannot have, by its own word or
// by its token's.
func CheckNodeLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("at most %d labels, got %d", maxLabels, len(labels))
	}
	for k, v := range labels {
		if !nodeLabelKey().MatchString(k) || len(v) > maxNodeLabel || !printable(v) {
			return fmt.Errorf("label %.200q=%.300q: keys are made of a-z A-Z 0-9 / _ . : -, values are printable and have at most %d bytes", k, v, maxNodeLabel)
		}
	}
	return nil
}

// printable: what nodes say of themselves ends up on people's terminals.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

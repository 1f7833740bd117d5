package client

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/resource"
)

// configName is what may stand in a Host line: no pattern, no quote, no white
// space, nothing that ssh or a shell would expand.
var configName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// SSHConfig writes the part of an ssh_config(5) with which a stock ssh reaches
// nodes as p's login does: one Host block for each. skipped tells which nodes
// are left out and why.
//
// Names and addresses come from nodes. They are written only where they
// consist of letters, digits and "._-:", and nothing written is ever given to
// a shell: there is no Match exec, no ProxyCommand, no LocalCommand.
func (p *Profile) SSHConfig(nodes []resource.Node) (text string, skipped []error, err error) {
	keys, err := p.configPaths()
	if err != nil {
		return "", nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Nodes of %s, from dtsh config. Write it again when nodes come or go.\n", p.Proxy)
	written := map[string]bool{}
	for _, n := range nodes {
		block, err := p.hostBlock(n, keys)
		name := strings.ToLower(n.Spec.Hostname)
		if err == nil && written[name] {
			err = fmt.Errorf("node %q is there twice: only the first is written", n.Spec.Hostname)
		}
		if err != nil {
			skipped = append(skipped, err)
			continue
		}
		written[name] = true
		b.WriteString(block)
	}
	return b.String(), skipped, nil
}

func (p *Profile) hostBlock(n resource.Node, keys string) (string, error) {
	name := n.Spec.Hostname
	if !configName.MatchString(name) {
		return "", fmt.Errorf("node %.128q has a name that an ssh_config cannot hold", name)
	}
	target, err := nodeTarget(n, "")
	if err != nil {
		return "", err
	}
	host, port, err := net.SplitHostPort(target.Addresses[0])
	if err != nil {
		return "", err
	}
	names := []string{name}
	if lower := strings.ToLower(name); lower != name { // ssh compares as typed
		names = append(names, lower)
	}
	if configName.MatchString(p.Cluster) {
		for _, n := range slices.Clone(names) {
			names = append(names, n+"."+p.Cluster)
		}
	}
	return fmt.Sprintf("\nHost %s\n    HostName %s\n    Port %s\n    HostKeyAlias %s\n%s",
		strings.Join(names, " "), host, port, strings.ToLower(name), keys), nil
}

// configPaths are the lines that are the same for every node.
func (p *Profile) configPaths() (string, error) {
	var b strings.Builder
	for _, line := range []struct{ key, file string }{
		{"CertificateFile", p.User + certificateSuffix},
		{"IdentityFile", p.User},
		{"UserKnownHostsFile", knownHostsFile},
	} {
		path, err := configPath(p.keyPath(line.file))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "    %s %s\n", line.key, path)
	}
	// Other identities would be tried first, and another known_hosts might hold
	// a key that nobody certified.
	b.WriteString("    IdentitiesOnly yes\n    GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n" +
		"    UpdateHostKeys no\n    PreferredAuthentications publickey\n")
	return b.String(), nil
}

// configPath quotes a path for ssh_config: "%" begins a token and is doubled.
// What ssh has no way to quote, or quotes differently from version to version
// ("${", double quotes, backslashes), is refused.
func configPath(path string) (string, error) {
	bad := strings.ContainsAny(path, "\"\\") || strings.Contains(path, "${") ||
		strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f })
	if bad {
		return "", api.Refuse(connect.CodeFailedPrecondition, "ssh cannot be told of the path %q", path).
			WithHint("Set DTSH_HOME to a path without quotes, backslashes and ${, and log in again.")
	}
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`, nil
}

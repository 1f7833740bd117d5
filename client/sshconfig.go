package client

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/resource"
)

// configName is what may stand in a Host line: no pattern, no quote, no white
// space, nothing that ssh or a shell would expand.
var configName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// SSHConfig writes the part of an ssh_config(5) with which a stock ssh reaches
// nodes as p's login does: one Host block for each. skipped tells which nodes
// are left out and why. agent is the socket of the agent that signs with the
// login's key where that is in the TPM; it is empty where the key is a file.
//
// Names and addresses come from nodes. They are written only where they
// consist of letters, digits and "._-:", and nothing written is ever given to
// a shell: there is no Match exec, no ProxyCommand, no LocalCommand.
func (p *Profile) SSHConfig(nodes []resource.Node, agent string) (text string, skipped []error, err error) {
	keys, err := p.configKeys(agent)
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

// configKeys are the lines that are the same for every node.
//
// Of a key in the TPM ssh gets the public half: it has the agent sign where that
// lists the same plain key, and shows the certificate that is in the file
// (pubkey_prepare and sign_and_send_pubkey of OpenSSH's sshconnect2.c), which may
// have been renewed meanwhile. An agent that lists the certificate alone is not
// asked.
func (p *Profile) configKeys(agent string) (string, error) {
	type line struct{ key, path string }
	lines := []line{{"CertificateFile", p.keyPath(p.User + certificateSuffix)}}
	if agent == "" {
		lines = append(lines, line{"IdentityFile", p.keyPath(p.User)})
	} else {
		// Where it is not absolute it may be another word to ssh: "none",
		// "SSH_AUTH_SOCK" and "$NAME" are no paths.
		if !filepath.IsAbs(agent) {
			return "", unquotable(agent)
		}
		lines = append(lines, line{"IdentityFile", p.keyPath(p.User + ".pub")}, line{"IdentityAgent", agent})
	}
	lines = append(lines, line{"UserKnownHostsFile", p.keyPath(knownHostsFile)})
	var b strings.Builder
	for _, l := range lines {
		path, err := configPath(l.path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "    %s %s\n", l.key, path)
	}
	// Other identities would be tried first, and another known_hosts might hold
	// a key that nobody certified. Left to itself ssh takes ChaCha20, at half the
	// speed of AES-GCM.
	fmt.Fprintf(&b, "    IdentitiesOnly yes\n    GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n"+
		"    UpdateHostKeys no\n    PreferredAuthentications publickey\n    HostKeyAlgorithms %s\n    Ciphers %s\n",
		strings.Join(hostKeyAlgorithms(), ","), strings.Join(configCiphers(), ","))
	return b.String(), nil
}

// configCiphers are those of a node, each of which OpenSSH has had since 6.5.
// The list is written out: ssh reads "^", which puts some first, only since 8.1.
func configCiphers() []string {
	return []string{
		ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
		ssh.CipherAES128CTR, ssh.CipherAES256CTR,
	}
}

// configPath quotes a path for ssh_config: "%" begins a token and is doubled.
// What ssh has no way to quote, or quotes differently from version to version
// ("${", double quotes, backslashes), is refused. On Windows ssh takes slashes, for
// pipes too (Win32-OpenSSH issue 1949).
func configPath(path string) (string, error) {
	path = filepath.ToSlash(path)
	bad := strings.ContainsAny(path, "\"\\") || strings.Contains(path, "${") ||
		strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f })
	if bad {
		return "", unquotable(path)
	}
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`, nil
}

func unquotable(path string) error {
	return api.Refuse(connect.CodeFailedPrecondition, "ssh cannot be told of the path %q", path).
		WithHint("Set DTSH_HOME to a path without quotes, backslashes and ${, and log in again.")
}

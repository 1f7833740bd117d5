package client

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"devicetrust/api"
	"devicetrust/client/clienttest"
	"devicetrust/resource"
)

// stockSSH runs OpenSSH's ssh with the configuration, as nobody's account has
// configured it.
func stockSSH(t *testing.T, config string, args ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ssh_config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ssh", append([]string{"-F", file, "-o", "BatchMode=yes"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestAStockSSHReachesNodesWithTheConfiguration(t *testing.T) {
	c := clienttest.Start(t)
	good := c.StartNode(t, "Web-1", clienttest.HostCert{Names: []string{"web-1"}})
	impostor := c.StartNode(t, "web-2", clienttest.HostCert{Authority: clienttest.OtherAuthority(t)})
	renamed := c.StartNode(t, "web-3", clienttest.HostCert{Names: []string{"web-4"}})
	// What a shell or ssh might read otherwise.
	h, err := OpenHome(filepath.Join(t.TempDir(), "o'brien's %d $HOME home"))
	if err != nil {
		t.Fatal(err)
	}
	p := loggedIn(t, c, h, nil)
	nodes, err := connected(t, p).Nodes(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	config, skipped, err := p.SSHConfig(nodes, "")
	if err != nil || len(skipped) != 0 {
		t.Fatalf("%v, skipped %v", err, skipped)
	}
	for _, name := range []string{"web-1", "Web-1", "web-1.example"} {
		out, err := stockSSH(t, config, "root@"+name, "echo reached")
		if err != nil || out != "reached\n" {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if got := good.Certificates(); len(got) == 0 || got[0].KeyId != "alice" {
		t.Errorf("certificates %v", got)
	}
	for name, node := range map[string]*clienttest.Node{"web-2": impostor, "web-3": renamed} {
		if out, err := stockSSH(t, config, "root@"+name, "echo reached"); err == nil || len(node.Certificates()) != 0 {
			t.Errorf("%s is spoken to: %s", name, out)
		}
	}
}

// keyInAgent moves the key of p's login from its file into an ssh-agent, and
// returns its socket.
func keyInAgent(t *testing.T, p *Profile) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dt $HOME 100%") //nolint:usetesting // its path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, key := filepath.Join(dir, "agent.sock"), p.keyPath(p.User)
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	said, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil { // once it listens
		t.Fatalf("ssh-agent: %q, %v", line, err)
	}
	run := func(name string, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
	run("ssh-add", "-q", key)
	if err := os.WriteFile(key+".pub", run("ssh-keygen", "-y", "-f", key), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	return socket
}

func TestAStockSSHReachesNodesWithAKeyThatOnlyTheAgentHas(t *testing.T) {
	c := clienttest.Start(t)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	p := loggedIn(t, c, newHome(t), nil)
	nodes, err := connected(t, p).Nodes(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	config, _, err := p.SSHConfig(nodes, keyInAgent(t, p))
	if err != nil {
		t.Fatal(err)
	}
	out, err := stockSSH(t, config, "root@web-1", "echo reached")
	if err != nil || out != "reached\n" {
		t.Errorf("%v\n%s", err, out)
	}
	if got := node.Certificates(); len(got) == 0 || got[0].KeyId != "alice" {
		t.Errorf("certificates %v", got)
	}
	for _, word := range []string{"", "none", "SSH_AUTH_SOCK", "$SSH_AUTH_SOCK", "agent.sock", "~/agent.sock"} {
		if text, _, err := p.SSHConfig(nodes, word); err == nil && strings.Contains(text, "IdentityAgent") {
			t.Errorf("%q is taken for a socket's path", word)
		}
	}
}

func TestTheConfigurationSaysWhatSSHIsToUse(t *testing.T) {
	c := clienttest.Start(t)
	p := loggedIn(t, c, newHome(t), nil)
	config, _, err := p.SSHConfig([]resource.Node{named("good", "10.0.0.1:2222")}, "/run/50% $HOME/agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	told, err := stockSSH(t, config, "-G", "root@good")
	if err != nil {
		t.Fatalf("%v\n%s", err, told)
	}
	key := p.keyPath("alice")
	for _, line := range []string{
		"hostname 10.0.0.1", "port 2222", "hostkeyalias good", "identitiesonly yes", "updatehostkeys false",
		"stricthostkeychecking true", "preferredauthentications publickey", "globalknownhostsfile /dev/null",
		"identityagent /run/50% $HOME/agent.sock", "identityfile " + key + ".pub", "certificatefile " + key + "-cert.pub",
		"userknownhostsfile " + p.keyPath("known_hosts"),
		"ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr",
		"hostkeyalgorithms " + strings.Join(hostKeyAlgorithms(), ","),
	} {
		if !strings.Contains(told, "\n"+line+"\n") {
			t.Errorf("%q is not in what ssh -G tells:\n%s", line, told)
		}
	}
	for _, never := range []string{"proxycommand", "localcommand", "forwardagent yes"} {
		if strings.Contains(told, "\n"+never) {
			t.Errorf("%s is in what ssh -G tells:\n%s", never, told)
		}
	}
}

func named(name, addr string) resource.Node {
	return resource.Node{
		Header: resource.Header{Kind: resource.KindNode, Metadata: resource.Metadata{Name: "id"}},
		Spec:   resource.NodeSpec{Hostname: name, Addr: addr},
	}
}

func TestNothingOfANodesGetsIntoTheConfigurationUnchecked(t *testing.T) {
	c := clienttest.Start(t)
	p := loggedIn(t, c, newHome(t), nil)
	p.Cluster = "example\n    ProxyCommand touch /tmp/x"
	text, skipped, err := p.SSHConfig([]resource.Node{
		named("good", "10.0.0.1:22"),
		named("evil\n    ProxyCommand touch /tmp/x", "10.0.0.2:22"),
		named("*", "10.0.0.3:22"), named("!good", "10.0.0.3:22"), named("a b", "10.0.0.3:22"), named("a,b", "10.0.0.3:22"),
		named("-oProxyCommand=x", "10.0.0.3:22"), named("", "10.0.0.3:22"), named(`a"b`, "10.0.0.3:22"), named("%h", "10.0.0.3:22"),
		named("addr", "x; touch /tmp/x:22"), named("addr", "%h:22"), named("addr", "$(id):22"), named("addr", "-x:22"), named("addr", "h:22\nProxyCommand x"),
		named("good", "10.0.0.9:22"),
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(skipped) != 15 {
		t.Errorf("%d skipped, want 15: %v", len(skipped), skipped)
	}
	for _, bad := range []string{"ProxyCommand", "touch", "evil", "%", "$", "10.0.0.9", "Match", "*"} {
		if strings.Contains(text, bad) {
			t.Errorf("%q is in\n%s", bad, text)
		}
	}
	if strings.Count(text, "\nHost ") != 1 || !strings.Contains(text, "\nHost good\n    HostName 10.0.0.1\n    Port 22\n    HostKeyAlias good\n") {
		t.Errorf("got\n%s", text)
	}
}

func TestAPathThatSSHCannotQuoteIsRefused(t *testing.T) {
	for path, want := range map[string]string{
		"/home/a/.dtsh": `"/home/a/.dtsh"`, "/my home/50%": `"/my home/50%%"`, "/$HOME": `"/$HOME"`,
		`/a"b`: "", "/a'b": `"/a'b"`, `/a\b`: "", "/${HOME}": "", "/a\nb": "",
	} {
		got, err := configPath(path)
		if got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
		if r, ok := errors.AsType[*api.Refusal](err); want == "" && (!ok || r.Hint == "") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

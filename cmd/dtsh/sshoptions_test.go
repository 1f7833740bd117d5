package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/client"
	"devicetrust/client/clienttest"
)

func TestOptionsAreReadAsSSHReadsThem(t *testing.T) {
	for _, tt := range []struct {
		options string // separated by ;
		got     func(*sshOptions) any
		want    any
	}{
		{"User=root", func(o *sshOptions) any { return o.login }, "root"},
		{"user root", func(o *sshOptions) any { return o.login }, "root"},
		{" USER = \"root\" ", func(o *sshOptions) any { return o.login }, "root"},
		{"User=root;User=alice", func(o *sshOptions) any { return o.login }, "root"},
		{"Port=2222", func(o *sshOptions) any { return o.port }, "2222"},
		{"ForwardAgent=yes;ForwardAgent=no", func(o *sshOptions) any { return o.agent }, true},
		{"ForwardAgent=/run/agent", func(o *sshOptions) any { return o.agentSocket }, "/run/agent"},
		{"RequestTTY=no", func(o *sshOptions) any { return o.tty }, ttyNever},
		{"RequestTTY=force", func(o *sshOptions) any { return o.tty }, ttyAsked},
		{"SessionType=none", func(o *sshOptions) any { return o.noCommand }, true},
		{"ExitOnForwardFailure=yes", func(o *sshOptions) any { return o.mustForward }, true},
		{"ConnectTimeout=5", func(o *sshOptions) any { return o.connectTimeout }, 5 * time.Second},
		{"ServerAliveInterval=2m;ServerAliveCountMax=5", func(o *sshOptions) any { return o.alive }, client.Alive{Interval: 2 * time.Minute, Misses: 5}},
		{"ServerAliveInterval=0", func(o *sshOptions) any { return o.alive.Off }, true},
		{"SetEnv=A=1 B=\"x y\" C=", func(o *sshOptions) any { return o.setEnv }, []string{"A=1", "B=x y", "C="}},
		{"SendEnv=LANG LC_*;SendEnv=-LC_ALL", func(o *sshOptions) any {
			return o.environment([]string{"LANG", "LC_ALL", "LC_TIME", "HOME"}, func(name string) string { return "of " + name })
		}, []string{"LANG=of LANG", "LC_TIME=of LC_TIME"}},
		{"GatewayPorts=yes", func(o *sshOptions) any { return o.listen.Everywhere }, true},
		{"StreamLocalBindUnlink=yes", func(o *sshOptions) any { return o.listen.Unlink }, true},
		{"StreamLocalBindMask=0117", func(o *sshOptions) any { return uint32(o.listen.Mode) }, uint32(0o660)},
		{"EscapeChar=none", func(o *sshOptions) any { return o.escape.char() }, byte(0)},
		{"EscapeChar=^B", func(o *sshOptions) any { return o.escape.char() }, byte(2)},
		{"EscapeChar=#", func(o *sshOptions) any { return o.escape.char() }, byte('#')},
		{"BatchMode=no", func(o *sshOptions) any { return o.escape.char() }, byte('~')},
		{"LogLevel=QUIET", func(o *sshOptions) any { return o.quiet }, true},
		{"LogLevel=DEBUG2", func(o *sshOptions) any { return o.debug }, true},
		{"LocalForward=8080 db:80;LocalForward=8081:db:81;DynamicForward=none", func(o *sshOptions) any { return len(o.forwards) }, 2},
		{"ProxyJump=root@bastion:22,[::1]:2222,plain,2001:db8::1", func(o *sshOptions) any {
			var words []string
			for _, h := range o.jump {
				words = append(words, h.login+" "+h.host+" "+h.port)
			}
			return words
		}, []string{"root bastion 22", " ::1 2222", " plain ", " 2001:db8::1 "}},
		{"ProxyJump=none", func(o *sshOptions) any { return len(o.jump) }, 0},
		{"StrictHostKeyChecking=yes;Compression=no;ControlMaster=no", func(o *sshOptions) any { return o.port }, ""},
	} {
		o := &sshOptions{}
		for _, text := range strings.Split(tt.options, ";") {
			if err := o.option(text); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
		if diff := cmp.Diff(tt.want, tt.got(o)); diff != "" {
			t.Errorf("%q: %s", tt.options, diff)
		}
	}
}

func TestAnOptionThatIsNotHereIsRefusedByName(t *testing.T) {
	const believed, safe, login = "cluster's certificate", "algorithms", "certificate of the login"
	for text, why := range map[string]string{
		"StrictHostKeyChecking=no": believed, "StrictHostKeyChecking=accept-new": believed, "UserKnownHostsFile=/dev/null": believed,
		"KnownHostsCommand=x": believed, "HostKeyAlias=x": believed, "NoHostAuthenticationForLocalhost=yes": believed, "VerifyHostKeyDNS=yes": believed,
		"Ciphers=3des-cbc": safe, "MACs=hmac-sha1": safe, "KexAlgorithms=x": safe,
		"IdentityFile=x": login, "PasswordAuthentication=yes": login, "IdentityAgent=x": login,
		"ProxyCommand=nc %h %p": "not supported, except for none", "PermitLocalCommand=yes": "not supported", "Compression=yes": "not supported",
		"LocalCommand=x": "not an option", "Bogus=1": "not an option", "Include=x": "not an option", "Host=x": "not an option", "Match=exec x": "not an option",
		"Port=0": "1 to 65535", "Port=x": "1 to 65535", "RequestTTY=maybe": "none of", "ForwardAgent=maybe": "none of", "ConnectTimeout=-1": "want seconds",
		"ConnectTimeout=25h": "want seconds", "ServerAliveCountMax=0": "number from 1", "SetEnv=x": "NAME=VALUE", "SetEnv=A=\"x": "quote", "SendEnv=[": "",
		"StreamLocalBindMask=9": "octal", "EscapeChar=ab": "one character", "LogLevel=LOUD": "none of", "LocalForward=1": "want", "RemoteForward=x": "want",
		"ProxyJump=a:0": "1 to 65535", "ProxyJump=@a@b": "no account", "ProxyJump=,": "want", "ProxyJump=a,a,a,a,a,a,a,a,a": "more than 8",
		"User=": "no value", "=x": "KEY=VALUE", "User": "KEY=VALUE", "": "KEY=VALUE",
	} {
		o := &sshOptions{}
		err := o.option(text)
		name, _, _ := strings.Cut(text, "=")
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), name) && why != "KEY=VALUE" {
			t.Errorf("%q: %v, want %q", text, err, why)
		}
		// A value before it changes nothing of that.
		if o.given = map[string]bool{strings.ToLower(name): true}; o.option(text) == nil {
			t.Errorf("%q is let through the second time", text)
		}
	}
}

func TestTheLastOfTwoFlagsHolds(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	c.StartNode(t, "web-1", clienttest.HostCert{})
	s.env["TERM"] = "xterm"
	want(t, s.dtsh("ssh", "-T", "-tt", "root@web-1", "pty"), 0, "^xterm", "")
	want(t, s.dtsh("ssh", "-tt", "-T", "root@web-1", "pty"), 0, "^none", "")
	want(t, s.dtsh("ssh", "-oRequestTTY=no", "--tty", "root@web-1", "pty"), 0, "^xterm", "")
	want(t, s.dtsh("ssh", "-Aa", "root@web-1", "echo", "x"), 0, "^x", "")
	want(t, s.dtsh("ssh", "-A", "root@web-1", "echo", "x"), 0, "^x", `^WARNING: the agent is not forwarded: the certificate does not permit agent forwarding\nLog in again, once a role allows it: dtsh login\n$`)
	want(t, s.dtsh("ssh", "-qA", "root@web-1", "echo", "x"), 0, "^x", "")
}

package sshd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/identity"
	"devicetrust/policy"
)

func TestSshdIsToldWhatBothTheCertificateAndTheRolesGive(t *testing.T) {
	everything := map[string]any{"port_forwarding": true, "forward_agent": true, "permit_x11_forwarding": true}
	with := func(list string, targets ...string) map[string]any {
		o := map[string]any{"port_forwarding": true}
		if list != "" {
			o[list] = targets
		}
		return o
	}
	// What follows restrict and comes before expiry-time.
	for name, row := range map[string]struct {
		options map[string]any
		permit  *identity.Permit // nil: all
		want    string
	}{
		"a role that gives nothing":                 {nil, nil, "pty"},
		"a role that gives everything":              {everything, nil, "pty,agent-forwarding,X11-forwarding,port-forwarding"},
		"and a certificate that permits nothing":    {everything, &identity.Permit{}, ""},
		"and one that permits no ports":             {everything, &identity.Permit{PTY: true, AgentForwarding: true, X11Forwarding: true}, "pty,agent-forwarding,X11-forwarding"},
		"and one without a terminal":                {everything, &identity.Permit{PortForwarding: true}, "port-forwarding"},
		"targets to connect to":                     {with("permit_open", "db:5432", "[2001:DB8::1]:*", "*:80"), nil, `pty,port-forwarding,permitopen="*:80",permitopen="[2001:db8::1]:*",permitopen="db:5432"`},
		"addresses to listen on":                    {with("permit_listen", "localhost:8080", "*:9000"), nil, `pty,port-forwarding,permitlisten="*:9000",permitlisten="localhost:8080"`},
		"nowhere to connect to":                     {with("permit_open", "none"), nil, `pty,port-forwarding,permitopen="255.255.255.255:1"`},
		"nothing to listen on":                      {with("permit_listen", "none"), nil, `pty,port-forwarding,permitlisten="NONE:1"`},
		"sockets to connect to, and no port":        {with("permit_open", "/run/db", "/run/x/*"), nil, `pty,port-forwarding,permitopen="255.255.255.255:1"`},
		"sockets beside a port":                     {with("permit_open", "/run/db", "db:1"), nil, `pty,port-forwarding,permitopen="db:1"`},
		"sockets only, both ways":                   {map[string]any{"port_forwarding": true, "permit_open": []string{"/run/*"}, "permit_listen": []string{"/run/*"}}, nil, "pty"},
		"nothing either way":                        {map[string]any{"port_forwarding": true, "permit_open": []string{"none"}, "permit_listen": []string{"none"}}, nil, "pty"},
		"a host that would be a pattern":            {with("permit_listen", "host?:1", "web:1"), nil, `pty,port-forwarding,permitlisten="web:1"`},
		"a host that would end the line":            {with("permit_open", "a#b:1", `a"b:1`, `a\b:1`, "a,b:1", "a'b:1", "ok:1"), nil, `pty,port-forwarding,permitopen="ok:1"`},
		"only such hosts":                           {with("permit_open", "a#b:1"), nil, `pty,port-forwarding,permitopen="255.255.255.255:1"`},
		"a list that narrows what is not permitted": {with("permit_open", "db:1"), &identity.Permit{PTY: true}, "pty"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, noon)
			s.publish(func() { s.setRole("access", row.options, nil) })
			cert := s.certify(newKey(t, 9).PublicKey(), func(id *identity.Identity) {
				if row.permit != nil {
					id.Permit = *row.permit
				}
			})
			line, no := ask(s.arguments("root", cert), noon)
			want := strings.TrimSuffix("restrict,"+row.want, ",") + `,expiry-time="20260301130000" root` + "\n"
			if diff := cmp.Diff(want, line); diff != "" || no != nil {
				t.Errorf("%v: %s", no, diff)
			}
		})
	}
}

func TestMorePortsThanSshdReadsAreNone(t *testing.T) {
	var few, many []policy.HostPort
	for i := range 1000 {
		few = append(few[:min(i, 100)], policy.HostPort{Host: "h", Port: uint16(i + 1)})
		many = append(many, policy.HostPort{Host: fmt.Sprint("host-", i), Port: 1})
	}
	if options, note := portOptions(policy.PortForwards{Open: policy.Ports{Listed: few}}); len(options) != len(few)+2 || note != "" {
		t.Errorf("of few: %d, %q", len(options), note)
	}
	options, note := portOptions(policy.PortForwards{Open: policy.Ports{Listed: many}, Listen: policy.Ports{All: true}})
	if len(options) != 0 || !strings.Contains(note, "no port may be forwarded") {
		t.Errorf("of many: %d, %q", len(options), note)
	}
}

func TestTheTimeIsThatOnTheFaceOfTheMachinesClock(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		at   time.Time
		want string
	}{
		{time.Date(2026, 3, 1, 12, 0, 9, 0, time.UTC), "20260301130009"},
		{time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), "20260701140000"},
		// Summer ends on 25 October at 01:00 UTC, and 02:30 is there twice.
		{time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC), "20261025023000"},
		{time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC), "20261025033000"},
		{time.Date(2026, 10, 25, 2, 30, 0, 0, time.UTC), "20261025033000"},
	} {
		got := expiryTime(row.at, berlin)
		if got != row.want {
			t.Errorf("%v is %s, want %s", row.at, got, row.want)
		}
		// Whichever of the two sshd takes, it is not too early.
		read, err := time.ParseInLocation("20060102150405", got, berlin)
		if err != nil || read.Before(row.at) {
			t.Errorf("%v is read as %v: %v", row.at, read, err)
		}
	}
}

package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPortForwardsAreThoseOfAllRoles(t *testing.T) {
	yes, no := true, false
	s := &State{Roles: map[string]Role{}}
	for name, o := range map[string]RoleOptions{
		"none":    {},
		"off":     {PortForwarding: &no},
		"all":     {PortForwarding: &yes},
		"db":      {PortForwarding: &yes, PermitOpen: []string{"DB:5432", "/run/db", "[::1]:*"}, PermitListen: []string{"none"}},
		"web":     {PortForwarding: &yes, PermitOpen: []string{"web:80", "db:5432"}, PermitListen: []string{"*:8080"}},
		"sockets": {PortForwarding: &yes, PermitOpen: []string{"/run/*"}, PermitListen: []string{"/run/*"}},
		"open":    {PortForwarding: &yes, PermitOpen: []string{"db:1"}},
	} {
		s.Roles[name] = mustRole(t, name, RoleSpec{Options: o})
	}
	db := []HostPort{{"::1", 0}, {"db", 5432}}
	for roles, want := range map[string]PortForwards{
		"":          {},
		"none":      {},
		"off":       {},
		"unknown":   {},
		"all,x":     {}, // nobody with an unknown role gets in
		"all":       {Open: Ports{All: true}, Listen: Ports{All: true}},
		"none,all":  {Open: Ports{All: true}, Listen: Ports{All: true}},
		"db,all":    {Open: Ports{All: true}, Listen: Ports{All: true}},
		"db":        {Open: Ports{Listed: db}},
		"db,off":    {Open: Ports{Listed: db}},
		"db,web":    {Open: Ports{Listed: append(slices.Clone(db), HostPort{"web", 80})}, Listen: Ports{Listed: []HostPort{{"*", 8080}}}},
		"web,db":    {Open: Ports{Listed: append(slices.Clone(db), HostPort{"web", 80})}, Listen: Ports{Listed: []HostPort{{"*", 8080}}}},
		"sockets":   {},
		"open":      {Open: Ports{Listed: []HostPort{{"db", 1}}}, Listen: Ports{All: true}},
		"open,none": {Open: Ports{Listed: []HostPort{{"db", 1}}}, Listen: Ports{All: true}},
	} {
		var sub Subject
		if roles != "" {
			sub.Roles = strings.Split(roles, ",")
		}
		if diff := cmp.Diff(want, s.PortForwards(sub)); diff != "" {
			t.Errorf("%q: %s", roles, diff)
		}
	}
	if got := (*State)(nil).PortForwards(Subject{Roles: []string{"all"}}); !cmp.Equal(got, PortForwards{}) {
		t.Errorf("of no policy: %+v", got)
	}
}

// contain is what a server makes of them that is told p.
func (p Ports) contain(host string, port uint16) bool {
	return p.All || slices.ContainsFunc(p.Listed, func(l HostPort) bool {
		return (l.Host == "*" || l.Host == targetHost(host)) && (l.Port == 0 || l.Port == port)
	})
}

func TestPortForwardsAreWhatDecideAnswersAboutEach(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hosts := []string{"*", "db", "DB", "web.example.com", "192.0.2.1", "[::1]", "[2001:DB8::1]", "localhost"}
	ports := []string{"*", "1", "22", "65535"}
	list := func() []string {
		var l []string
		for range r.IntN(4) {
			if r.IntN(5) == 0 {
				l = append(l, "/run/x")
				continue
			}
			l = append(l, hosts[r.IntN(len(hosts))]+":"+ports[r.IntN(len(ports))])
		}
		if len(l) == 0 && r.IntN(3) == 0 {
			return []string{"none"}
		}
		return l
	}
	asked := []string{"db", "Db", "web.example.com", "192.0.2.1", "::ffff:192.0.2.1", "::1", "2001:db8:0::1", "localhost", "127.0.0.1", "*", "other"}
	allowed, denied := 0, 0
	for round := range 400 {
		s := &State{Roles: map[string]Role{}}
		sub := Subject{User: "alice", Principals: []string{"root"}, Serial: 1}
		for i := range 1 + r.IntN(3) {
			name := fmt.Sprint("r", i)
			spec := RoleSpec{Allow: RoleConditions{Logins: []string{"root"}, NodeLabels: map[string]Values{"*": {"*"}}}}
			if yes := r.IntN(3) > 0; yes {
				spec.Options.PortForwarding, spec.Options.PermitOpen, spec.Options.PermitListen = &yes, list(), list()
			}
			s.Roles[name] = mustRole(t, name, spec)
			sub.Roles = append(sub.Roles, name)
		}
		got := s.PortForwards(sub)
		for range 50 {
			target := Target{Kind: ToPort, Host: asked[r.IntN(len(asked))], Port: []uint16{1, 22, 23, 65535}[r.IntN(4)]}
			among := got.Open
			if r.IntN(2) == 0 {
				target.Kind, among = FromPort, got.Listen
				if r.IntN(4) == 0 {
					target.Host = ""
				}
				if r.IntN(4) == 0 {
					target.Port = 0
				}
			}
			d := Decide(s, Request{Action: Forward, Subject: sub, Login: "root", Node: Node{ID: "n"}, Target: target})
			if d.Allowed() != among.contain(target.Host, target.Port) {
				t.Fatalf("round %d, %+v: Decide says %q, and the list is %+v", round, target, d.Reason, among)
			}
			if d.Allowed() {
				allowed++
			} else {
				denied++
			}
		}
	}
	if allowed < 1000 || denied < 1000 {
		t.Errorf("%d allowed, %d denied: that is no test", allowed, denied)
	}
}

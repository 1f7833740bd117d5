package sshd

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What a connection has that no Match block singles out. The names are of no
// account and no machine (RFC 2606, RFC 5737, RFC 3849).
const (
	anyUser    = "somebody-else"
	anyHost    = "somewhere.invalid"
	anyAddress = "192.0.2.1"
	anyIPv6    = "2001:db8::1"
	anyPort    = "22"
)

var errTooMany = errors.New("the Match blocks make more combinations than are looked at")

// connections are those about which sshd has to be asked: one for each set of
// Match blocks that can hold together. The first is that of which the fewest do.
func (c *configFile) connections(accounts []account) ([]connection, error) {
	users := c.users(accounts)
	hosts := c.values(byHost, []string{anyHost}, patternExamples)
	addrs := c.values(byAddress, []string{anyAddress, anyIPv6}, addressExamples)
	laddrs := c.values(byLocalAddress, []string{anyAddress, anyIPv6}, addressExamples)
	ports := c.values(byLocalPort, []string{anyPort, "1"}, func(list string) []string { return []string{list} })
	domains := c.values(byRDomain, []string{""}, patternExamples)
	if !c.fewEnough(len(users), len(hosts), len(addrs), len(laddrs), len(ports), len(domains)) {
		return nil, errTooMany
	}
	var all []connection
	seen := map[string]bool{}
	for _, u := range users {
		for _, host := range hosts {
			for _, addr := range addrs {
				for _, laddr := range laddrs {
					for _, port := range ports {
						for _, domain := range domains {
							conn := connection{u.name, host, addr, laddr, port, domain, u.groups}
							if s := c.signature(&conn); !seen[s] {
								seen[s] = true
								all = append(all, conn)
							}
						}
					}
				}
			}
		}
	}
	if len(all) > maxAsked {
		return nil, errTooMany
	}
	return all, nil
}

// fewEnough tells whether each combination can be held against each block.
func (c *configFile) fewEnough(counts ...int) bool {
	most := maxTried / max(1, len(c.blocks))
	for _, n := range counts {
		if most /= max(1, n); most == 0 {
			return false
		}
	}
	return true
}

// users are one account for each way in which the criteria tell accounts apart:
// those that exist, and those that patterns name.
func (c *configFile) users(accounts []account) []account {
	all := []account{{name: anyUser}}
	for _, list := range c.lists(byUser) {
		for _, name := range patternExamples(list) {
			if !slices.ContainsFunc(accounts, func(a account) bool { return a.name == name }) {
				all = append(all, account{name: name})
			}
		}
	}
	all = append(all, accounts...)
	return distinct(all, func(a account) string {
		return c.told(&connection{user: a.name, groups: a.groups}, byUser, byGroup)
	}, func(a account) bool { return askable(a.name) })
}

// values are one example for each way in which criteria of the kind tell them
// apart.
func (c *configFile) values(kind string, others []string, examples func(list string) []string) []string {
	all := others
	for _, list := range c.lists(kind) {
		all = append(all, examples(list)...)
	}
	return distinct(all, func(v string) string {
		return c.told(&connection{host: v, addr: v, laddr: v, lport: v, rdomain: v}, kind)
	}, askable)
}

func distinct[T any](all []T, key func(T) string, usable func(T) bool) []T {
	seen := map[string]bool{}
	var out []T
	for _, v := range all {
		if k := key(v); usable(v) && !seen[k] {
			seen[k] = true
			out = append(out, v)
		}
	}
	return out
}

// askable: sshd takes -C apart at commas.
func askable(v string) bool {
	return !strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == ',' || r == 0x7f })
}

// told is which criteria of the kinds hold for conn.
func (c *configFile) told(conn *connection, kinds ...string) string {
	var b strings.Builder
	for i := range c.blocks {
		for j, by := range c.blocks[i].criteria {
			if !slices.Contains(kinds, by.kind) {
				continue
			}
			if holds, _ := by.holds(conn); holds {
				b.WriteString(strconv.Itoa(i) + "." + strconv.Itoa(j) + " ")
			}
		}
	}
	return b.String()
}

// lists are the values of the criteria of one kind.
func (c *configFile) lists(kind string) []string {
	var all []string
	for i := range c.blocks {
		for _, by := range c.blocks[i].criteria {
			if by.kind == kind && !slices.Contains(all, by.value) {
				all = append(all, by.value)
			}
		}
	}
	return all
}

// groupNames are the groups that criteria name.
func (c *configFile) groupNames() []string {
	var all []string
	for _, list := range c.lists(byGroup) {
		for name := range strings.SplitSeq(list, ",") {
			name = strings.TrimPrefix(name, "!")
			if name != "" && name[0] != '-' && !strings.ContainsAny(name, "*?") && askable(name) {
				all = append(all, name)
			}
		}
	}
	return all
}

// patternExamples are names for which the patterns of a list hold, negated ones
// too: what they leave out is told apart by them.
func patternExamples(list string) []string {
	var all []string
	for pattern := range strings.SplitSeq(list, ",") {
		pattern = strings.TrimPrefix(pattern, "!")
		all = append(all, strings.NewReplacer("*", "", "?", "x").Replace(pattern),
			strings.NewReplacer("*", "x", "?", "x").Replace(pattern))
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// addressExamples: between the beginnings of networks and what follows their
// ends, addresses are not told apart.
func addressExamples(list string) []string {
	var all []string
	for term := range strings.SplitSeq(list, ",") {
		term = strings.TrimPrefix(term, "!")
		if p, ok := parseNetwork(term); ok {
			all = append(all, p.Masked().Addr().String())
			if next := lastOf(p).Next(); next.IsValid() {
				all = append(all, next.String())
			}
			continue
		}
		for _, filling := range []string{"1", "1.1", "1.1.1", "1.1.1.1", "1::1", ":1", "1:1:1:1:1:1:1:1"} {
			text := strings.NewReplacer("*", filling, "?", "1").Replace(term)
			if _, err := netip.ParseAddr(text); err == nil {
				all = append(all, text)
			}
		}
	}
	return all
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

package sshd

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// connection is what sshd is asked about: whose it is, from where, to where.
type connection struct {
	user, host, addr, laddr, lport, rdomain string
	groups                                  []string // of user
}

// spec is the argument of `sshd -C`.
func (c connection) spec() string {
	s := "user=" + c.user + ",host=" + c.host + ",addr=" + c.addr + ",laddr=" + c.laddr + ",lport=" + c.lport
	if c.rdomain != "" {
		s += ",rdomain=" + c.rdomain
	}
	return s
}

// criterion is one of a Match line. Kinds are those of sshd_config(5); of
// another kind it is not known whom it means.
type criterion struct{ kind, value string }

const (
	byUser         = "user"
	byGroup        = "group"
	byHost         = "host"
	byAddress      = "address"
	byLocalAddress = "localaddress"
	byLocalPort    = "localport"
	byRDomain      = "rdomain"
	byAll          = "all"
	// byInvalidUser is for accounts that do not exist: nobody gets in by it.
	byInvalidUser = "invalid-user"
)

func parseCriteria(args []string) []criterion {
	var all []criterion
	for i := 0; i < len(args); i++ {
		kind, value, joined := strings.Cut(args[i], "=")
		kind = strings.ToLower(kind)
		if kind != byAll && kind != byInvalidUser && !joined {
			if i++; i < len(args) {
				value = args[i]
			}
		}
		all = append(all, criterion{kind, value})
	}
	return all
}

// holds tells whether a block does for c; known is false where that cannot be
// told, as of a criterion of a later version.
func (c *configFile) holds(at int, conn *connection) (holds, known bool) {
	for ; at >= 0; at = c.blocks[at].outer {
		criteria := c.blocks[at].criteria
		if len(criteria) == 0 {
			return false, false
		}
		for _, by := range criteria {
			holds, known := by.holds(conn)
			if !holds || !known {
				return holds, known
			}
		}
	}
	return true, true
}

func (by criterion) holds(c *connection) (holds, known bool) {
	switch by.kind {
	case byAll:
		return true, true
	case byInvalidUser:
		return false, true
	case byUser:
		return matchList(c.user, by.value, false), true
	case byGroup:
		return matchGroups(c.groups, by.value), true
	case byHost:
		return matchList(strings.ToLower(c.host), by.value, true), true
	case byAddress:
		return matchAddress(c.addr, by.value), true
	case byLocalAddress:
		return matchAddress(c.laddr, by.value), true
	case byLocalPort:
		return c.lport == by.value, true
	case byRDomain:
		return matchList(c.rdomain, by.value, false), true
	}
	return false, false
}

// matchList is match.c's match_pattern_list: one of the patterns holds, and none
// of those after a "!".
func matchList(s, list string, lower bool) bool {
	if lower {
		list = strings.ToLower(list)
	}
	var found bool
	for pattern := range strings.SplitSeq(list, ",") {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if !matchPattern(s, pattern) {
			continue
		}
		if negated {
			return false
		}
		found = true
	}
	return found
}

// matchGroups is groupaccess.c's ga_match_pattern_list.
func matchGroups(groups []string, list string) bool {
	var found bool
	for _, g := range groups {
		for pattern := range strings.SplitSeq(list, ",") {
			pattern, negated := strings.CutPrefix(pattern, "!")
			if !matchPattern(g, pattern) {
				continue
			}
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}

// matchPattern knows * and ?. Its time is bounded by the product of the lengths.
func matchPattern(s, pattern string) bool {
	si, pi, star, mark := 0, 0, -1, 0
	for si < len(s) {
		switch {
		case pi < len(pattern) && pattern[pi] == '*':
			star, mark = pi, si
			pi++
		case pi < len(pattern) && (pattern[pi] == '?' || pattern[pi] == s[si]):
			si, pi = si+1, pi+1
		case star >= 0:
			mark++
			si, pi = mark, star+1
		default:
			return false
		}
	}
	return strings.TrimLeft(pattern[pi:], "*") == ""
}

// matchAddress is addrmatch.c's addr_match_list: networks, and where a term is
// none, patterns.
func matchAddress(addr, list string) bool {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	var found bool
	for term := range strings.SplitSeq(list, ",") {
		term, negated := strings.CutPrefix(term, "!")
		var holds bool
		if network, ok := parseNetwork(term); ok {
			holds = network.Contains(a)
		} else {
			holds = matchPattern(addr, term)
		}
		if holds && negated {
			return false
		}
		found = found || holds
	}
	return found
}

func parseNetwork(term string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(term); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(term)
	return p, err == nil
}

// locate finds the line that gives conn the keyword, where one does: the first
// of the Match blocks that hold, else the first outside of them. Where which is
// not nil, the line's words satisfy it.
func (c *configFile) locate(keyword string, conn *connection, which func(args []string) bool) *configLine {
	for i := range c.lines {
		l := &c.lines[i]
		if l.block < 0 || !l.is(keyword, which) {
			continue
		}
		if holds, known := c.holds(l.block, conn); holds && known {
			return l
		}
	}
	return c.global(keyword, which)
}

// global is the first such line outside of Match blocks.
func (c *configFile) global(keyword string, which func(args []string) bool) *configLine {
	for i := range c.lines {
		if l := &c.lines[i]; l.block < 0 && l.is(keyword, which) {
			return l
		}
	}
	return nil
}

func (l *configLine) is(keyword string, which func(args []string) bool) bool {
	return l.keyword == keyword && (which == nil || which(l.args))
}

// criteriaText is how the block and those around it were written.
func (c *configFile) criteriaText(at int) string {
	var parts []string
	for ; at >= 0; at = c.blocks[at].outer {
		parts = append(parts, c.blocks[at].text)
	}
	slices.Reverse(parts)
	return strings.Join(parts, ", and ")
}

// signature tells the connections apart for which different blocks hold.
func (c *configFile) signature(conn *connection) string {
	var b strings.Builder
	for i := range c.blocks {
		if holds, known := c.holds(i, conn); holds && known {
			b.WriteString(strconv.Itoa(i) + " ")
		}
	}
	return b.String()
}

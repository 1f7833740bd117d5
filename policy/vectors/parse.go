package vectors

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"devicetrust/policy"
	"devicetrust/resource"
)

// cast are the users and nodes that cases may name.
type cast struct {
	users map[string]*resource.User
	nodes map[string]*resource.Node
}

func parse(name, text string) (File, error) {
	f := File{Name: name}
	sections, err := split(text)
	if err != nil {
		return f, err
	}
	who, err := f.readPolicy(sections["policy"])
	if err != nil {
		return f, err
	}
	for section, action := range map[string]policy.Action{
		"sessions": policy.OpenSession, "nodes": policy.SeeNode, "calls": policy.CallAPI, "forwards": policy.Forward,
	} {
		for line := range strings.Lines(sections[section]) {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			c, err := who.readCase(action, line)
			if err != nil {
				return f, fmt.Errorf("%q: %w", line, err)
			}
			f.Cases = append(f.Cases, c)
		}
	}
	if len(f.Cases) == 0 {
		return f, errNoCases
	}
	return f, nil
}

func split(text string) (map[string]string, error) {
	sections, current := map[string]string{}, ""
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(name, " --") {
			current = strings.TrimSuffix(name, " --")
			switch current {
			case "policy", "sessions", "nodes", "calls", "forwards":
			default:
				return nil, fmt.Errorf("unknown section %q", current)
			}
			continue
		}
		sections[current] += line
	}
	return sections, nil
}

// readPolicy takes the documents apart. Without a preference, a file has the
// one that a cluster starts with; the preset roles are there too.
func (f *File) readPolicy(text string) (cast, error) {
	who := cast{map[string]*resource.User{}, map[string]*resource.Node{}}
	all, err := resource.ParseYAML([]byte(text))
	if err != nil {
		return who, err
	}
	for _, p := range policy.Presets() {
		all = append(all, &resource.Role{Header: resource.NewHeader(resource.KindRole, p.Name), Spec: p.Spec})
	}
	for _, r := range all {
		doc, err := resource.MarshalJSON(r)
		if err != nil {
			return who, err
		}
		switch r := r.(type) {
		case *resource.Role:
			f.Roles = append(f.Roles, doc)
		case *resource.Preference:
			f.Preference = doc
		case *resource.Lock:
			f.Locks = append(f.Locks, doc)
		case *resource.User:
			who.users[r.Metadata.Name] = r
		case *resource.Node:
			who.nodes[r.Spec.Hostname] = r
		default:
			return who, fmt.Errorf("a %s decides nothing", r.Head().Kind)
		}
	}
	if f.Preference == nil {
		f.Preference, err = resource.MarshalJSON(&resource.Preference{Header: resource.NewHeader(resource.KindPreference, resource.PreferenceName)})
	}
	return who, err
}

func (k cast) readCase(action policy.Action, line string) (Case, error) {
	c := Case{Line: line, Action: action}
	question, answer, ok := strings.Cut(line, "→")
	if !ok {
		return c, fmt.Errorf("there is no →")
	}
	asked := strings.Fields(question)
	want := map[policy.Action]int{policy.OpenSession: 3, policy.SeeNode: 2, policy.CallAPI: 3, policy.Forward: 5}[action]
	if len(asked) != want {
		return c, fmt.Errorf("%d words before the arrow, want %d", len(asked), want)
	}
	if err := k.readWho(&c, asked[0]); err != nil {
		return c, err
	}
	if action == policy.Forward {
		if err := c.readTarget(asked[3], asked[4]); err != nil {
			return c, err
		}
		asked = asked[:3]
	}
	if action == policy.CallAPI {
		c.Verb, c.Kind = asked[1], asked[2]
	} else {
		if action != policy.SeeNode {
			c.Login = asked[1]
		}
		if c.Node, ok = k.nodes[asked[len(asked)-1]]; !ok {
			return c, fmt.Errorf("there is no node %q", asked[len(asked)-1])
		}
	}
	return c, c.readAnswer(strings.TrimSpace(answer))
}

// readTarget takes the two words of a forward apart; * for a host is that the
// client names none.
func (c *Case) readTarget(what, target string) error {
	switch what {
	case "agent":
		c.Target.Kind = policy.ToAgent
		return nil
	case "x11":
		c.Target.Kind = policy.ToDisplay
		return nil
	case "open":
		c.Target.Kind = policy.ToPort
		if !strings.Contains(target, ":") {
			c.Target.Kind = policy.ToSocket
		}
	case "listen":
		c.Target.Kind = policy.FromPort
		if !strings.Contains(target, ":") {
			c.Target.Kind = policy.FromSocket
		}
	default:
		return fmt.Errorf("%q is none of open, listen, agent, x11", what)
	}
	colon := strings.LastIndexByte(target, ':')
	if colon < 0 {
		c.Target.Path = target
		return nil
	}
	port, err := strconv.ParseUint(target[colon+1:], 10, 16)
	c.Target.Port = uint16(port)
	if c.Target.Host = strings.Trim(target[:colon], "[]"); c.Target.Host == "*" {
		c.Target.Host = ""
	}
	return err
}

func (k cast) readWho(c *Case, who string) (err error) {
	name, special, _ := strings.Cut(who, "+")
	var ok bool
	if c.User, ok = k.users[name]; !ok {
		return fmt.Errorf("there is no user %q", name)
	}
	for special != "" {
		var word string
		word, special, _ = strings.Cut(special, "+")
		if age, ok := strings.CutPrefix(word, "age="); ok {
			if err := c.readAge(age); err != nil {
				return err
			}
			continue
		}
		if c.readEvidence(word) {
			continue
		}
		flag, ok := map[string]*bool{
			"device": &c.Device, "half-device": &c.HalfDevice, "tpm-key": &c.Key, "bot": &c.Bot, "stale": &c.Stale, "revoked": &c.Revoked,
		}[word]
		if !ok {
			return fmt.Errorf("%q says nothing about a user", word)
		}
		*flag = true
	}
	return nil
}

func (c *Case) readAge(age string) (err error) {
	if age == "unknown" {
		c.Age = policy.NeverHeard
		return nil
	}
	c.Age, err = time.ParseDuration(age)
	return err
}

// readEvidence tells whether word is about what the device proved.
func (c *Case) readEvidence(word string) bool {
	if tpm, ok := strings.CutPrefix(word, "tpm="); ok {
		c.Evidence.TPMManufacturer, c.Evidence.TPMFirmware, _ = strings.Cut(tpm, "/")
		return true
	}
	level, ok := map[string]policy.EvidenceLevel{
		"key": policy.EvidenceKey, "quote": policy.EvidenceQuote, "event_log": policy.EvidenceEventLog,
		"secure_boot": policy.EvidenceSecureBoot, "unheard-of": "unheard_of",
	}[word]
	if ok {
		c.Evidence.Level = level
	}
	return ok
}

func (c *Case) readAnswer(answer string) error {
	effect, rest, _ := strings.Cut(answer, " ")
	cause, rule, _ := strings.Cut(strings.TrimSpace(rest), " ")
	switch effect {
	case "allow":
		c.Effect = policy.Allow
	case "deny":
		c.Effect = policy.Deny
	default:
		return fmt.Errorf("%q is neither allow nor deny", effect)
	}
	c.Cause = policy.Cause(cause)
	if c.Rule = strings.TrimSpace(rule); c.Rule == "" || cause == "" {
		return fmt.Errorf("a cause and a rule are wanted (- for no rule)")
	}
	if c.Rule == "-" {
		c.Rule = ""
	}
	return nil
}

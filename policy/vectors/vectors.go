// Package vectors reads the golden vectors in policy/testdata, for the tests
// of everything that decides by policy: Decide itself, the node, explain.
//
// A file has sections, each begun by a line "-- name --". The section policy
// holds YAML documents: roles, the preference, locks, and the users and nodes
// that the cases name. In the other sections each line is a case; those that
// begin with # are comments:
//
//	-- sessions --
//	WHO LOGIN NODE → EFFECT CAUSE RULE
//	-- nodes --
//	WHO NODE → EFFECT CAUSE RULE
//	-- calls --
//	WHO VERB KIND → EFFECT CAUSE RULE
//	-- forwards --
//	WHO LOGIN NODE WHAT TARGET → EFFECT CAUSE RULE
//
// WHO is a user, with what is special about the certificate: alice+device has
// a trusted device, alice+half-device one whose credential is missing,
// alice+device+quote and alice+device+tpm=IFX/7.85 one that has proved so much
// (key, quote, event_log, secure_boot; +unheard-of is a level that there is
// not) and whose TPM is known, alice+device+tpm-key one in whose TPM the
// certificate's key is, alice+bot is a machine, alice+stale has a certificate
// from before its logins were granted, alice+revoked one that was revoked, alice+age=6m asks
// where it was last known 6 minutes ago that the policy is the one in force, and
// alice+age=unknown where nothing is known of that. EFFECT is allow or
// deny, CAUSE a policy.Cause, RULE the source of a rule that must have had
// that effect, or - for none. WHAT is open or listen, and TARGET HOST:PORT (* for
// a host that the client does not name) or the path of a socket; or agent or x11,
// and -.
package vectors

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"devicetrust/policy"
	"devicetrust/resource"
)

// Now is when all cases take place.
var Now = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// File is one file of vectors.
type File struct {
	Name string
	// Roles, Preference and Locks as JSON, as nodes get them.
	Roles      [][]byte
	Preference []byte
	Locks      [][]byte
	Cases      []Case
}

// Case is one line.
type Case struct {
	Line string
	User *resource.User
	// What is special about the certificate.
	Device, HalfDevice, Key, Bot, Stale, Revoked bool
	Evidence                                     policy.Evidence
	// Age of what is decided by.
	Age time.Duration

	Action policy.Action
	Login  string         // OpenSession, Forward
	Node   *resource.Node // OpenSession, Forward, SeeNode
	Target policy.Target  // Forward
	Verb   string         // CallAPI
	Kind   string         // CallAPI

	Effect policy.Effect
	Cause  policy.Cause
	Rule   string // "" where none is wanted
}

// Serial is that of every case's certificate.
const Serial = 7

// Read reads all files in dir; that there are none is an error, for a test
// without cases proves nothing.
func Read(dir string) ([]File, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there are no vectors in %s", dir)
	}
	var files []File
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := parse(strings.TrimSuffix(filepath.Base(name), ".txt"), string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, f)
	}
	return files, nil
}

// State is the policy of f; with the certificate of all cases revoked, where
// c says so.
func (f File) State(c Case) (*policy.State, error) {
	s, err := resource.PolicyState(f.Roles, f.Preference, f.Locks)
	if err == nil && c.Revoked {
		s.Revoked = policy.RevokedOnly(Serial, "")
	}
	return s, err
}

// Request is the question of c, as from a certificate that was issued by s.
func (c Case) Request(s *policy.State) policy.Request {
	sub := policy.Subject{
		User: c.User.Metadata.Name, Roles: c.User.Spec.Roles, Traits: c.User.Spec.Traits, Serial: Serial, Bot: c.Bot,
		DeviceEvidence: c.Evidence, KeyAttested: c.Key,
	}
	sub.Principals = append([]string{}, policy.LoginsOf(s, sub)...)
	if c.Stale {
		sub.Principals = []string{"somebody-else"}
	}
	if c.Device || c.HalfDevice {
		sub.DeviceID, sub.DeviceAssetTag = "9cdfc0ad-64b7-4d9c-8e2f-0123456789ab", "C00AA0AAAA0A"
	}
	if c.Device {
		sub.DeviceCredentialID = "credential"
	}
	r := policy.Request{Action: c.Action, Subject: sub, Login: c.Login, Target: c.Target, Resource: c.Kind, Verb: c.Verb, Now: Now, StateAge: c.Age}
	if c.Node != nil {
		r.Node = policy.Node{ID: c.Node.Metadata.Name, Name: c.Node.Spec.Hostname, Labels: c.Node.Metadata.Labels}
	}
	return r
}

// Check says what in d is not as c wants it.
func (c Case) Check(d policy.Decision) error {
	if d.Effect != c.Effect || d.Cause != c.Cause {
		return fmt.Errorf("got %s because of %q (%s), want %s because of %q", effectName(d.Effect), d.Cause, d.Reason, effectName(c.Effect), c.Cause)
	}
	if c.Rule != "" && !slices.ContainsFunc(d.Rules, func(r *policy.Rule) bool { return r.Source == c.Rule && decides(r.Effect, c.Effect) }) {
		return fmt.Errorf("no rule %s decided it; there were %s", c.Rule, describe(d.Rules))
	}
	return nil
}

func decides(rule policy.RuleEffect, effect policy.Effect) bool {
	if effect == policy.Allow {
		return rule == policy.RuleAllow
	}
	return rule == policy.RuleDeny || rule == policy.RuleRequire
}

func describe(rules []*policy.Rule) string {
	var lines []string
	for _, r := range rules {
		lines = append(lines, fmt.Sprintf("%s %s (%s)", r.Effect, r.Source, r.Detail))
	}
	return strings.Join(lines, "; ")
}

func effectName(e policy.Effect) string {
	if e == policy.Allow {
		return "allow"
	}
	return "deny"
}

var errNoCases = errors.New("there are no cases in it")

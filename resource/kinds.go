package resource

import (
	"maps"
	"slices"
	"strings"
)

// kind is what is known of one kind of resource.
type kind struct {
	make func() Resource
	// version is written; reads lists all that are read.
	version string
	reads   []string
	// words are other names that people type.
	words []string
}

// knownKinds never changes.
var knownKinds = map[string]kind{
	KindUser:          {func() Resource { return &User{} }, "v2", []string{"v2"}, []string{"users"}},
	KindRole:          {func() Resource { return &Role{} }, "v7", []string{"v3", "v4", "v5", "v6", "v7", "v8"}, []string{"roles"}},
	KindDevice:        {func() Resource { return &Device{} }, "v1", []string{"v1"}, []string{"devices"}},
	KindPreference:    {func() Resource { return &Preference{} }, "v2", []string{"v2"}, []string{"cluster_auth_preferences", "cap"}},
	KindLock:          {func() Resource { return &Lock{} }, "v2", []string{"v2"}, []string{"locks"}},
	KindToken:         {func() Resource { return &Token{} }, "v2", []string{"v2"}, []string{"tokens"}},
	KindNode:          {func() Resource { return &Node{} }, "v2", []string{"v2"}, []string{"nodes"}},
	KindCertAuthority: {func() Resource { return &CertAuthority{} }, "v2", []string{"v2"}, []string{"cert_authorities", "cas"}},
}

// NormalizeKind gives the kind that people mean by word: "users" is "user".
// False: there is no such kind.
func NormalizeKind(word string) (string, bool) {
	word = strings.ReplaceAll(strings.ToLower(word), "-", "_")
	for name, k := range knownKinds {
		if word == name || slices.Contains(k.words, word) {
			return name, true
		}
	}
	return "", false
}

// Kinds are all kinds of resource, in order.
func Kinds() []string { return slices.Sorted(maps.Keys(knownKinds)) }

// NewHeader starts a resource of the kind in the version that is written.
func NewHeader(kind, name string) Header {
	return Header{Kind: kind, Version: knownKinds[kind].version, Metadata: Metadata{Name: name}}
}

// article is the kind as the end of a sentence: "a role".
func article(kind string) string { return "a " + kind }

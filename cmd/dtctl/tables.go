package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"devicetrust/policy"
	"devicetrust/resource"
)

// headers of a kind's table; row gives the cells below them.
func headers(kind string) []string {
	switch kind {
	case resource.KindUser:
		return []string{"User", "Roles", "Logins"}
	case resource.KindRole:
		return []string{"Role", "Device Trust", "Logins", "Node Labels"}
	case resource.KindDevice:
		return []string{"Asset Tag", "OS", "Enroll Status", "Device ID"}
	case resource.KindPreference:
		return []string{"Name", "Device Trust", "Auto Enroll", "EK CAs"}
	case resource.KindLock:
		return []string{"Lock", "Target", "Message", "Expires"}
	case resource.KindToken:
		return []string{"Token", "Type", "Labels", "Expires"}
	case resource.KindNode:
		return []string{"Node Name", "Address", "Labels", "Version", "Last Seen", "Node ID"}
	case resource.KindCertAuthority:
		return []string{"Type", "Cluster", "Created"}
	}
	return []string{"Name"}
}

func plural(kind string) string {
	if kind == resource.KindCertAuthority {
		return "authorities"
	}
	return strings.ReplaceAll(kind, "_", " ") + "s"
}

func (a *app) row(r resource.Resource) []string {
	name := r.Head().Metadata.Name
	switch r := r.(type) {
	case *resource.User:
		return []string{name, list(r.Spec.Roles), list(r.Spec.Traits["logins"])}
	case *resource.Role:
		allow := r.Spec.Allow
		return []string{name, string(r.Spec.Options.DeviceTrustMode), list(allow.Logins), nodeLabels(allow.NodeLabels)}
	case *resource.Device:
		return []string{r.Spec.AssetTag, osName(r.Spec.OSType), enrollStatus(r.Spec.EnrollStatus), name}
	case *resource.Preference:
		t := r.Spec.DeviceTrust
		return []string{name, string(t.Mode), strconv.FormatBool(t.AutoEnroll), strconv.Itoa(len(t.EKCertAllowedCAs))}
	case *resource.Lock:
		return []string{name, lockTarget(r.Spec.Target), r.Spec.Message, a.expiry(r.Spec.Expires)}
	case *resource.Token:
		return []string{name, list(r.Spec.Roles), labels(r.Spec.Labels), a.expiry(r.Metadata.Expires)}
	case *resource.Node:
		return []string{r.Spec.Hostname, r.Spec.Addr, labels(r.Metadata.Labels), r.Spec.Version, a.lastSeen(r), name}
	case *resource.CertAuthority:
		return []string{r.Spec.Type, r.Spec.ClusterName, a.Time(r.Spec.CreateTime)}
	}
	return []string{name}
}

func list(words []string) string { return strings.Join(words, ",") }

func labels(m map[string]string) string {
	parts := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return list(parts)
}

// nodeLabels are a role's, where a label may have several values.
func nodeLabels(m map[string]policy.Values) string {
	flat := make(map[string]string, len(m))
	for k, values := range m {
		flat[k] = strings.Join(values, "|")
	}
	return labels(flat)
}

// osName is how people write the system; of one that is not known here, what
// the server says.
func osName(osType string) string {
	switch osType {
	case "linux":
		return "Linux"
	case "macos":
		return "macOS"
	case "windows":
		return "Windows"
	}
	return osType
}

// enrollStatus: whatever is not enrolled is not.
func enrollStatus(status string) string {
	if status == resource.Enrolled {
		return "enrolled"
	}
	return "not enrolled"
}

func (a *app) expiry(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return a.Time(t)
}

func lockTarget(t policy.LockTarget) string {
	var parts []string
	for _, p := range [][2]string{{"user", t.User}, {"role", t.Role}, {"login", t.Login}, {"device", t.Device}, {"node", t.Node}} {
		if p[1] != "" {
			parts = append(parts, p[0]+"="+p[1])
		}
	}
	return list(parts)
}

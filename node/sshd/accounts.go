package sshd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"devicetrust/durable"
)

// account is one that sshd may let in, with the names of its groups.
type account struct {
	name   string
	groups []string
}

// accounts are those that the system lists, and those in the groups that are
// named: a directory may know groups that it does not list.
func accounts(ctx context.Context, groupNames []string) ([]account, error) {
	passwd, err := database(ctx, "passwd")
	if err != nil {
		return nil, err
	}
	group, err := database(ctx, "group")
	if err != nil {
		return nil, err
	}
	if len(groupNames) > 0 {
		more, _ := database(ctx, "group", groupNames...) // fails where there is no such group
		group += "\n" + more
	}
	return parseAccounts(passwd, group)
}

// database asks the system for its accounts or groups, and where it has no
// getent, reads the file.
func database(ctx context.Context, name string, keys ...string) (string, error) {
	out, err := runCommand(ctx, command{program: "getent", args: append([]string{name}, keys...), most: maxAccountsText})
	if err == nil || len(keys) > 0 {
		return string(out), err
	}
	out, err = durable.Read("/etc/"+name, maxAccountsText)
	if os.IsNotExist(err) {
		return "", nil
	}
	return string(out), err
}

// parseAccounts reads passwd(5) and group(5). Lines that are none are left out:
// who reads the same files for sshd leaves them out as well.
func parseAccounts(passwd, group string) ([]account, error) {
	groupOf, members := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(group) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		groupOf[f[2]] = f[0]
		for name := range strings.SplitSeq(f[3], ",") {
			if name != "" && !slices.Contains(members[name], f[0]) {
				members[name] = append(members[name], f[0])
			}
		}
	}
	var all []account
	seen := map[string]bool{}
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 7 || seen[f[0]] {
			continue
		}
		if _, err := strconv.ParseUint(f[2], 10, 32); err != nil {
			continue
		}
		seen[f[0]] = true
		all = append(all, account{f[0], append(slices.Clone(members[f[0]]), groupOf[f[3]])})
	}
	for name, groups := range members { // accounts of a directory that does not list them
		if !seen[name] {
			all = append(all, account{name, groups})
		}
	}
	if len(all) > maxAccounts {
		return nil, fmt.Errorf("the system has more than %d accounts", maxAccounts)
	}
	slices.SortFunc(all, func(a, b account) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

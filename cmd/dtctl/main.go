// Command dtctl administers a cluster: users, roles, devices, tokens, locks
// and audit.
package main

import "devicetrust/cmd/internal/cli"

func main() { cli.Main(newRoot) }

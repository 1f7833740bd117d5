// Program dtsh is what people type: log in, enroll the device, reach servers.
package main

import "devicetrust/cmd/internal/cli"

func main() { cli.Main(newRoot) }

// SPDX-License-Identifier: Apache-2.0
// etcd, as kubeadm runs it in a pod: its packages are published, its program is not.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}

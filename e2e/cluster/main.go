// Command testcluster builds and runs a real one-node Kubernetes on a Linux machine that has no
// container registry and no network: the test bed for the operator's end-to-end tests.
//
// One binary holds etcd, the Kubernetes programs and CoreDNS. `testcluster up` starts a supervisor
// which runs this same binary once per program, so that each one is a process of its own.
package main

import (
	"fmt"
	"os"
)

const usage = `Usage: testcluster COMMAND [FLAGS]

  run         --dir DIR [--node]        start a cluster, say when it is ready, end it when standard input closes
  up          --dir DIR [--node]        start a cluster in the background and wait until it is ready
  down        --dir DIR                 stop it and remove what it left, except DIR/logs
  exec        --dir DIR -- CMD ARGS...  run CMD where the cluster can be reached, with KUBECONFIG set
  load-image  --dir DIR IMAGE.tar       give a container image to the node
  pack-image  --tag T --out F --add S:D put files into a new image (no base image, no registry)

Also, as upstream: etcd kube-apiserver kube-controller-manager kube-scheduler kubelet
kube-proxy kubectl
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	name, args := os.Args[1], os.Args[2:]
	if runUpstream(name) { // does not return when it knows the name
		return
	}
	commands := map[string]func([]string) error{
		"run":        runAttached,
		"up":         up,
		"down":       down,
		"exec":       execInCluster,
		"load-image": loadImage,
		"pack-image": packImage,
		"supervise":  supervise, // started by `up` and `run` only
	}
	command, known := commands[name]
	if !known {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := command(args); err != nil {
		fmt.Fprintf(os.Stderr, "testcluster %s: %v\n", name, err)
		os.Exit(1)
	}
}

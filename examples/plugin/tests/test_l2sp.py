from bench.testing import contract

TestContract = contract({"l2_sp": "full + l2_sp(0.1)"})

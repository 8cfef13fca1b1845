"""What the networks are given: label maps, face parts, edges and poses, from files to planes."""
